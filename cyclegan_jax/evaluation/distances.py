"""Distances between two sets of images by their features: Frechet and kernel.

The Frechet distance uses NumPy alone: SciPy's `sqrtm` and `eigvals` of the product of covariances
lose half the digits where a set has fewer images than features, and take 30 times as long.
"""

from typing import NamedTuple

import numpy as np


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Compute the squared Frechet distance of two Gaussians (Heusel et al. 2017).

    With covariances F.T @ F and G.T @ G, the trace of the square root of their product is the sum
    of the singular values of F @ G.T. Nothing is squared, so the singular covariances of few images
    are as exact as others.

    Args:
        x: Features [n, d].
        y: Features [m, d].

    Returns:
        The distance, computed in float64, at least 0.

    Raises:
        ValueError: There are fewer than two features on a side.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    factors = _covariance_factor(x), _covariance_factor(y)
    root = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    traces = sum(np.square(factor).sum() for factor in factors)
    means = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
    return float(max(0.0, means + traces - 2 * root))


def _covariance_factor(features: np.ndarray) -> np.ndarray:
    """Return F [k, d] such that F.T @ F is the unbiased covariance of features [n, d]."""
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 images, got {len(features)}")
    # The row of zeros only affects rounding: results agree with stored ones to the last digit.
    rows = np.pad(features - features.mean(axis=0), ((0, 1), (0, 0)))
    if len(rows) > rows.shape[1]:
        rows = np.asarray(np.linalg.qr(rows, mode="r"))
    return rows / np.sqrt(len(features) - 1)


class KernelDistance(NamedTuple):
    """A kernel distance.

    Attributes:
        mean: Mean over the subsets.
        deviation: Standard deviation between the subsets.
    """

    mean: float
    deviation: float


def kernel_distance(
    x: np.ndarray,
    y: np.ndarray,
    *,
    subsets: int = 100,
    subset_size: int | None = None,
    seed: int = 0,
) -> KernelDistance:
    """Compute the kernel inception distance (Binkowski et al. 2018): `squared_mmd` of subsets.

    Args:
        x: Features [n, d].
        y: Features [m, d].
        subsets: Number of random subsets, each drawn without replacement.
        subset_size: Images of each side in a subset. Default: 1000 as published, or half of the
            smaller set if that is less, since subsets that are nearly the whole set would hide how
            uncertain the result is. The mean is unbiased at any size.
        seed: Seed of the draws.

    Raises:
        ValueError: There are fewer than two features on a side or in a subset, or fewer on a side
            than in a subset.
    """
    smaller = min(len(x), len(y))
    size = max(2, min(1000, smaller // 2)) if subset_size is None else subset_size
    if not 2 <= size <= smaller:
        raise ValueError(f"cannot draw subsets of {size} from {len(x)} and {len(y)} images")
    rng = np.random.default_rng(seed)
    values = [
        squared_mmd(
            x[rng.choice(len(x), size, replace=False)],
            y[rng.choice(len(y), size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Estimate the squared maximum mean discrepancy, unbiased, hence possibly negative.

    The kernel is (a . b / d + 1)^3.

    Args:
        x: Features [n, d], n at least 2.
        y: Features [m, d], m at least 2.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: np.ndarray) -> float:
        values = kernel(a, a)
        return float((values.sum() - np.trace(values)) / (len(a) * (len(a) - 1)))

    return within(x) + within(y) - 2 * float(kernel(x, y).mean())
