"""Frechet and kernel distances against SciPy, closed forms and plain loops."""

import numpy as np
import pytest
from scipy import linalg

from cyclegan_jax.evaluation.distances import frechet_distance, kernel_distance, squared_mmd


def gaussian(seed: int, count: int, features: int) -> np.ndarray:
    """Draw from a random Gaussian whose covariance is far from diagonal."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(features, features))
    return rng.normal(size=(count, features)) @ mixing + rng.normal(size=features)


@pytest.mark.parametrize("features", [1, 2, 7, 40])
def test_frechet_equals_scipys_closed_form(features: int) -> None:
    """The distance is |m - n|^2 + trace(C + D - 2 sqrtm(C D)), with SciPy's square root."""
    one, other = gaussian(0, 90, features), gaussian(1, 120, features)
    c, d = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (one, other))
    between = np.sum((one.mean(0) - other.mean(0)) ** 2)
    expected = between + np.trace(c + d - 2 * np.real(linalg.sqrtm(c @ d)))
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_frechet_of_one_feature_worked_by_hand() -> None:
    """Means 1 and 7, variances 2 and 8: 36 + (sqrt 2 - sqrt 8)^2 = 38."""
    one, other = np.array([[0.0], [2.0]]), np.array([[5.0], [9.0]])
    assert frechet_distance(one, other) == pytest.approx(38)


def test_frechet_with_fewer_images_than_features() -> None:
    """Singular covariances: an isometry into more dimensions keeps the distance."""
    one, other = gaussian(2, 30, 5), gaussian(3, 40, 5)
    turn = linalg.orth(np.random.default_rng(4).normal(size=(60, 5))).T
    expected = frechet_distance(one, other)
    assert frechet_distance(one @ turn, other @ turn) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", [(12, 64), (300, 16)])
def test_frechet_of_a_set_and_itself_is_0(shape: tuple[int, int]) -> None:
    """In any order, with singular covariances and others; rounding never makes it negative."""
    for seed in range(20):
        one = gaussian(seed, *shape).astype(np.float32)
        assert 0 <= frechet_distance(one, one[::-1]) < 1e-9


def test_frechet_far_from_the_origin() -> None:
    """Float32 features with large means: the distance is that in float64."""
    one, other = gaussian(5, 300, 8).astype(np.float32), gaussian(6, 500, 8).astype(np.float32)
    wide = [x.astype(np.float64) for x in (one + 1000, other + 1000)]
    c, d = (np.cov(x, rowvar=False) for x in wide)
    expected = np.sum((wide[0].mean(0) - wide[1].mean(0)) ** 2)
    expected += np.trace(c + d - 2 * np.real(linalg.sqrtm(c @ d)))
    assert frechet_distance(one + 1000, other + 1000) == pytest.approx(expected, rel=1e-9)


def test_one_image_has_no_covariance() -> None:
    """One image is refused instead of dividing by zero."""
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        frechet_distance(np.ones((1, 3)), np.ones((2, 3)))


def plain_mmd(one: np.ndarray, other: np.ndarray) -> float:
    """Compute equation 4 of Binkowski et al. 2018 pair by pair."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (sum(float(a) * float(b) for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    total = 0.0
    for x, sign in ((one, 1), (other, 1)):
        pairs = [kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
        total += sign * sum(pairs) / (len(x) * (len(x) - 1))
    across = [kernel(a, b) for a in one for b in other]
    return total - 2 * sum(across) / (len(one) * len(other))


def test_mmd_equals_a_plain_double_loop() -> None:
    """Float32 sets of different sizes."""
    one, other = (gaussian(7, 9, 5).astype(np.float32), gaussian(8, 12, 5).astype(np.float32))
    assert squared_mmd(one, other) == pytest.approx(plain_mmd(one, other), rel=1e-12)


def test_kernel_distance_of_whole_sets_has_no_spread() -> None:
    """Subsets of all images are all the same."""
    one, other = gaussian(9, 10, 4), gaussian(10, 10, 4)
    mean, deviation = kernel_distance(one, other, subsets=3, subset_size=10)
    assert mean == pytest.approx(plain_mmd(one, other), rel=1e-12)
    assert deviation == pytest.approx(0, abs=1e-9 * abs(mean))


def test_kernel_distance_is_the_mean_and_spread_over_subsets() -> None:
    """Subsets of two out of three images: nine equally likely values, computed one by one."""
    one, other = gaussian(11, 3, 2), gaussian(12, 3, 2)
    pairs = ([0, 1], [0, 2], [1, 2])
    values = [plain_mmd(one[i], other[j]) for i in pairs for j in pairs]
    mean, deviation = kernel_distance(one, other, subsets=4000, subset_size=2)
    assert mean == pytest.approx(np.mean(values), abs=4 * np.std(values) / np.sqrt(4000))
    assert deviation == pytest.approx(np.std(values), rel=0.1)


def test_kernel_distance_separates_sets() -> None:
    """Draws from one Gaussian are within the deviation of 0, from two far outside; repeatable."""
    one = gaussian(13, 200, 6)
    mean, deviation = kernel_distance(one[:100], one[100:])
    assert abs(mean) < 2 * deviation
    far = kernel_distance(one[:100], one[100:] + 3)
    assert far.mean > 3 * far.deviation
    assert far == kernel_distance(one[:100], one[100:] + 3)


def test_default_subset_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the smaller set, at most 1000 and at least 2 images."""
    sizes = set()

    def spy(one: np.ndarray, other: np.ndarray) -> float:
        sizes.add((len(one), len(other)))
        return 0.0

    monkeypatch.setattr("cyclegan_jax.evaluation.distances.squared_mmd", spy)
    for counts in ((30, 21), (5000, 2400), (3, 2)):
        kernel_distance(*(np.zeros((n, 1)) for n in counts), subsets=2)
    assert sizes == {(10, 10), (1000, 1000), (2, 2)}


@pytest.mark.parametrize(("count", "size"), [(1, None), (5, 6), (5, 1)])
def test_impossible_subsets_are_refused(count: int, size: int | None) -> None:
    """Single images, subsets larger than a set, and subsets of one."""
    with pytest.raises(ValueError, match="subsets of"):
        kernel_distance(np.ones((count, 2)), np.ones((9, 2)), subset_size=size)
