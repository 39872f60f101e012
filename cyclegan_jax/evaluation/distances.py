"""Distances between two sets of images by their features: Frechet and kernel."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Statistics:
    """Mean and covariance of features that come in batches; all in float64.

    The covariance is kept as a factor of it. That is as exact for the singular covariance of few
    images as for any other, since nothing is squared, and small where they are few.

    Attributes:
        count: features so far.
        mean: [d].
    """

    def __init__(self, batches: Iterable[np.ndarray] = ()) -> None:
        """Begins with what `add` is given one after the other."""
        self.count = 0
        self.mean = np.zeros(0)
        # Put together, rows.T @ rows are the summed products of deviations from the mean.
        self._rows: list[np.ndarray] = []
        for batch in batches:
            self.add(batch)

    def add(self, features: np.ndarray) -> None:
        """Takes in more features, [n, d]."""
        added = len(features)
        if not added:
            return
        features = features.astype(np.float64)
        mean = features.mean(axis=0)
        if not self.count:
            self.mean = np.zeros_like(mean)
        # As Chan et al. (1983) join two sets: that the means differ adds one deviation.
        total = self.count + added
        between = (mean - self.mean) * np.sqrt(self.count * added / total)
        self._rows += [features - mean, between[None]]
        self.mean = self.mean + (mean - self.mean) * (added / total)
        self.count = total
        if sum(map(len, self._rows)) > 2 * len(mean):
            self._join()

    def factor(self) -> np.ndarray:
        """F [k, d], k at most d, with F.T @ F the covariance (unbiased).

        Raises:
            ValueError: of fewer than two features.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, not {self.count}")
        return self._join() / np.sqrt(self.count - 1)

    def _join(self) -> np.ndarray:
        """At most d rows in place of all, with the same `rows.T @ rows`."""
        rows = np.concatenate(self._rows)
        if len(rows) > rows.shape[1]:
            rows = np.asarray(np.linalg.qr(rows, mode="r"))
        self._rows = [rows]
        return rows


def frechet_distance(one: Statistics, other: Statistics) -> float:
    """The squared Frechet distance of two Gaussians (Heusel et al. 2017), 0 or more.

    With covariances F.T @ F and G.T @ G, the trace of the square root of their product is the sum
    of the singular values of F @ G.T: the roots of the eigenvalues of a symmetric matrix.

    Raises:
        ValueError: of fewer than two features on a side.
    """
    factors = one.factor(), other.factor()
    root = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    traces = sum(np.square(factor).sum() for factor in factors)
    return float(max(0.0, np.square(one.mean - other.mean).sum() + traces - 2 * root))


class KernelDistance(NamedTuple):
    """The mean over subsets, and the standard deviation between them."""

    mean: float
    deviation: float


def kernel_distance(
    one: np.ndarray,
    other: np.ndarray,
    *,
    subsets: int = 100,
    subset_size: int | None = None,
    seed: int = 0,
) -> KernelDistance:
    """The kernel inception distance (Binkowski et al. 2018): `squared_mmd` of random subsets.

    Args:
        one: features [N, d].
        other: features [M, d].
        subsets: how many are drawn, each without repetition.
        subset_size: images of each side in a subset. By default 1000 as published, or half of
            the smaller set where that is less: subsets that are nearly the whole set would hide
            how far the figure can be trusted. The mean is unbiased at any size.
        seed: of the drawing.

    Raises:
        ValueError: fewer than two features on a side or in a subset, or more in a subset than
            there are.
    """
    smaller = min(len(one), len(other))
    size = max(2, min(1000, smaller // 2)) if subset_size is None else subset_size
    if not 2 <= size <= smaller:
        raise ValueError(f"subsets of {size} from {len(one)} and {len(other)} images")
    rng = np.random.default_rng(seed)
    values = [
        squared_mmd(
            one[rng.choice(len(one), size, replace=False)],
            other[rng.choice(len(other), size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


def squared_mmd(one: np.ndarray, other: np.ndarray) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy; it may be below 0.

    The kernel is (x . y / d + 1)^3.

    Args:
        one: features [n, d], n at least 2.
        other: features [m, d], m at least 2.
    """
    one, other = one.astype(np.float64), other.astype(np.float64)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: np.ndarray) -> float:
        values = kernel(x, x)
        return float((values.sum() - np.trace(values)) / (len(x) * (len(x) - 1)))

    return within(one) + within(other) - 2 * float(kernel(one, other).mean())
