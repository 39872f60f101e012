"""How near images are to the ones they should be: L1, PSNR and SSIM, image by image."""

from collections.abc import Iterable

import numpy as np

# What an image without an error counts for in a mean of ratios, which would else be infinite and
# no number of JSON. Images of 256x256 with a single wrong value are at 101 dB.
PSNR_CAP = 100.0

# Wang et al. 2004: a Gaussian window of 11x11 and the two constants against division by zero.
_RADIUS, _SIGMA = 5, 1.5
_K1, _K2 = 0.01, 0.03


def similarity(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Means over pairs of images, which may be of different sizes from pair to pair.

    Args:
        pairs: an image and the one it should be, alike [H, W, C] of uint8 or uint16.

    Returns:
        `l1`, `psnr` (each image's at most `PSNR_CAP`) and `ssim`; the last is left out where a
        image is smaller than its window.

    Raises:
        ValueError: no pair, or images that are not alike.
    """
    values: dict[str, list[float]] = {"l1": [], "psnr": [], "ssim": []}
    fits = True
    for image, truth in pairs:
        image, truth = image[None], truth[None]
        values["l1"].append(float(l1(image, truth)[0]))
        values["psnr"].append(min(PSNR_CAP, float(psnr(image, truth)[0])))
        fits = fits and min(image.shape[1:3]) > 2 * _RADIUS
        if fits:
            values["ssim"].append(float(ssim(image, truth)[0]))
    if not values["l1"]:
        raise ValueError("no images to compare")
    if not fits:
        del values["ssim"]
    return {name: float(np.mean(each)) for name, each in values.items()}


def l1(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean absolute error of each image, [N, H, W, C] to [N]: 0 if equal, 1 if black for white.

    Args:
        images: uint8 or uint16.
        truth: of the same type and shape.
    """
    peak = _peak(images, truth)
    return np.mean(np.abs(images.astype(np.float64) - truth), axis=(1, 2, 3)) / peak


def psnr(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image in dB: [N, H, W, C] to [N].

    Infinite where an image equals the truth.

    Args:
        images: uint8 or uint16.
        truth: of the same type and shape.
    """
    peak = _peak(images, truth)
    error = np.mean((images.astype(np.float64) - truth) ** 2, axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(peak**2 / error)


def ssim(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Structural similarity (Wang et al. 2004) of each image: [N, H, W, C] to [N], at most 1.

    The mean over all channels and over all places where the window lies in the image.

    Args:
        images: uint8 or uint16, at least 11 pixels high and wide.
        truth: of the same type and shape.

    Raises:
        ValueError: smaller images, or images that are not alike.
    """
    peak = _peak(images, truth)
    if min(images.shape[1:3]) <= 2 * _RADIUS:
        raise ValueError(f"images {images.shape} are smaller than the window")
    constant_1, constant_2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    # Image by image: in smaller arrays, which stay in the caches.
    return np.array(
        [
            _ssim_map(x.astype(np.float64), y.astype(np.float64), constant_1, constant_2).mean()
            for x, y in zip(images, truth, strict=True)
        ]
    )


def _ssim_map(x: np.ndarray, y: np.ndarray, constant_1: float, constant_2: float) -> np.ndarray:
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x = _windowed(x * x) - mean_x**2
    variance_y = _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + constant_1) / (mean_x**2 + mean_y**2 + constant_1)
    return luminance * (2 * covariance + constant_2) / (variance_x + variance_y + constant_2)


def _windowed(x: np.ndarray) -> np.ndarray:
    """Means under the window, [H, W, C] to [H - 10, W - 10, C]."""
    weights = np.exp(-(np.arange(-_RADIUS, _RADIUS + 1) ** 2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for axis in (0, 1):
        size = x.shape[axis] - 2 * _RADIUS
        moved = np.moveaxis(x, axis, 0)
        rows = sum(weight * moved[i : i + size] for i, weight in enumerate(weights))
        x = np.moveaxis(np.asarray(rows), 0, axis)
    return x


def _peak(images: np.ndarray, truth: np.ndarray) -> float:
    """The greatest value of the images' type; both must be alike."""
    if images.shape != truth.shape or images.dtype != truth.dtype:
        raise ValueError(
            f"cannot compare {images.dtype} {images.shape} with {truth.dtype} {truth.shape}"
        )
    return float(np.iinfo(images.dtype).max)
