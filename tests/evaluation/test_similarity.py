"""L1, PSNR and SSIM against values worked by hand, a plain loop and scikit-image's method."""

import json
import math

import numpy as np
import pytest
from scipy import ndimage

from cyclegan_jax.evaluation.similarity import PSNR_CAP, l1, psnr, similarity, ssim


def pair(shape: tuple[int, ...], dtype: type = np.uint8) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy and smooth images [N, H, W, C]."""
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    smooth = ndimage.gaussian_filter(rng.uniform(-6, 6, shape), (0, 2, 2, 0))
    truth = np.clip(0.5 + smooth, 0, 1)
    noisy = np.clip(truth + rng.normal(0, 0.1, shape), 0, 1)
    return (noisy * top).astype(dtype), (truth * top).astype(dtype)


def test_l1_worked_by_hand() -> None:
    """Black instead of white is 1; (3 + 250) / 4 / 255; the same in 16 bits."""
    black, white = np.zeros((1, 2, 2, 1), np.uint8), np.full((1, 2, 2, 1), 255, np.uint8)
    assert l1(black, white).tolist() == [1] and l1(white, white).tolist() == [0]
    one = np.array([5, 0, 9, 9], np.uint8).reshape(1, 2, 2, 1)
    other = np.array([2, 250, 9, 9], np.uint8).reshape(1, 2, 2, 1)
    assert l1(one, other).tolist() == pytest.approx([253 / 4 / 255])
    wide = [x.astype(np.uint16) * 257 for x in (one, other)]
    assert l1(*wide).tolist() == pytest.approx([253 / 4 / 255])


def test_psnr_worked_by_hand() -> None:
    """Errors of 1 everywhere: 20 log10 of the largest value; no error: infinite."""
    for dtype, decibels in ((np.uint8, 48.1308), (np.uint16, 96.3295)):
        truth = np.zeros((2, 3, 3, 1), dtype)
        image = truth.copy()
        image[0] = 1
        assert psnr(image, truth).tolist() == pytest.approx([decibels, math.inf], abs=1e-4)


def plain_ssim(x: np.ndarray, y: np.ndarray, peak: float) -> float:
    """Compute equations 13 to 17 of Wang et al. 2004 window by window in Python."""
    weights = [[math.exp(-(i * i + j * j) / 4.5) for j in range(-5, 6)] for i in range(-5, 6)]
    total = sum(map(sum, weights))
    values = []
    for top, left, k in np.ndindex(x.shape[0] - 10, x.shape[1] - 10, x.shape[2]):
        cells = [
            (weights[i][j] / total, float(x[top + i, left + j, k]), float(y[top + i, left + j, k]))
            for i in range(11)
            for j in range(11)
        ]
        mean_x, mean_y = (sum(c[0] * c[n] for c in cells) for n in (1, 2))
        variance_x = sum(w * (a - mean_x) ** 2 for w, a, _ in cells)
        variance_y = sum(w * (b - mean_y) ** 2 for w, _, b in cells)
        covariance = sum(w * (a - mean_x) * (b - mean_y) for w, a, b in cells)
        c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
        values.append(
            (2 * mean_x * mean_y + c1)
            * (2 * covariance + c2)
            / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
        )
    return sum(values) / len(values)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_ssim_equals_a_plain_loop(dtype: type) -> None:
    """Images of two channels and different sides."""
    images, truth = pair((2, 13, 12, 2), dtype)
    expected = [plain_ssim(x, y, np.iinfo(dtype).max) for x, y in zip(images, truth, strict=True)]
    assert 0.1 < min(expected) < 0.95
    np.testing.assert_allclose(ssim(images, truth), expected, rtol=1e-9)


def test_ssim_is_that_of_scikit_image() -> None:
    """`structural_similarity` with the paper's settings: SciPy's filter, borders cropped."""
    images, truth = pair((1, 40, 31, 3))
    x, y = images[0].astype(float), truth[0].astype(float)

    def mean(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, (1.5, 1.5, 0), truncate=3.5)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    covariance = mean(x * y) - mean(x) * mean(y)
    variances = mean(x * x) - mean(x) ** 2 + mean(y * y) - mean(y) ** 2
    ssim_map = (2 * mean(x) * mean(y) + c1) * (2 * covariance + c2)
    ssim_map /= (mean(x) ** 2 + mean(y) ** 2 + c1) * (variances + c2)
    expected = ssim_map[5:-5, 5:-5].mean()
    np.testing.assert_allclose(ssim(images, truth), [expected], rtol=1e-9)


def test_ssim_of_flat_images_worked_by_hand() -> None:
    """Without structure only the means count: (2 * 100 * 150 + c) / (100^2 + 150^2 + c)."""
    one, other = (np.full((1, 11, 11, 1), value, np.uint8) for value in (100, 150))
    c = (0.01 * 255) ** 2
    assert ssim(one, other).tolist() == pytest.approx([(30000 + c) / (32500 + c)])


def test_range_of_ssim() -> None:
    """1 for equal images, symmetric, below 0 for negatives."""
    images, truth = pair((1, 20, 20, 3))
    assert ssim(truth, truth).tolist() == pytest.approx([1])
    np.testing.assert_allclose(ssim(images, truth), ssim(truth, images))
    assert ssim(truth, 255 - truth)[0] < 0


def test_similarity_is_the_mean_over_images() -> None:
    """Images of several sizes; PSNR of equal images is capped, so that JSON can hold the mean."""
    images, truth = pair((1, 20, 24, 3))
    larger = pair((1, 30, 16, 3))
    pairs = [(images[0], truth[0]), (larger[0][0], larger[1][0]), (truth[0], truth[0])]
    results = similarity(iter(pairs))
    assert list(results) == ["l1", "psnr", "ssim"]
    for name, measure in (("l1", l1), ("psnr", psnr), ("ssim", ssim)):
        each = [float(measure(x, y)[0]) for x, y in ((images, truth), larger, (truth, truth))]
        assert results[name] == pytest.approx(sum(min(value, 100) for value in each) / 3)
    assert similarity([(truth[0], truth[0])]) == {"l1": 0, "psnr": PSNR_CAP, "ssim": 1}
    json.dumps(results, allow_nan=False)


def test_images_smaller_than_the_window_have_no_ssim() -> None:
    """One small image removes SSIM from the means; `ssim` itself refuses it."""
    small, large = pair((1, 10, 30, 1)), pair((1, 30, 30, 1))
    results = similarity([(x[0], y[0]) for x, y in (large, small, large)])
    assert list(results) == ["l1", "psnr"]
    with pytest.raises(ValueError, match="smaller than the window"):
        ssim(*small)


def test_different_shapes_and_types_are_refused() -> None:
    """Nothing is broadcast or converted silently; there is no mean of no images."""
    image = np.zeros((1, 12, 12, 3), np.uint8)
    for measure in (l1, psnr, ssim):
        with pytest.raises(ValueError, match="cannot compare"):
            measure(image, image[..., :1])
        with pytest.raises(ValueError, match="cannot compare"):
            measure(image, image.astype(np.uint16))
    with pytest.raises(ValueError, match="no images"):
        similarity([])
