"""Label maps read from images by colour, and scores of label maps."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from cyclegan_jax.evaluation.palettes import Palette


def assign(images: np.ndarray, palette: Mapping[str, Sequence[Sequence[int]]]) -> np.ndarray:
    """Assign each pixel to the class of the nearest palette colour.

    Args:
        images: uint8 [N, H, W, 3].
        palette: One or more colours (RGB, 0 to 255) of each class.

    Returns:
        uint8 [N, H, W]: Positions of the classes in the palette. The distance is Euclidean in RGB;
        of equally near colours the first in the palette's order wins.
    """
    labels = np.zeros(images.shape[:-1], np.uint8)
    nearest = np.full(images.shape[:-1], np.iinfo(np.int32).max, np.int32)
    red, green, blue = np.moveaxis(images, -1, 0).astype(np.int32, order="C")
    for label, colours in enumerate(palette.values()):
        for r, g, b in colours:
            distance = (red - r) ** 2 + (green - g) ** 2 + (blue - b) ** 2
            nearer = distance < nearest
            labels[nearer] = label
            nearest[nearer] = distance[nearer]
    return labels


def scores(
    predicted: np.ndarray, truth: np.ndarray, class_names: Sequence[str]
) -> dict[str, float]:
    """Compare label maps in one confusion matrix over all pixels.

    Args:
        predicted: Labels [N, H, W], from 0 to len(class_names) - 1.
        truth: True labels of the same shape and range; pixels of higher labels are ignored.
        class_names: Names of the classes by label.

    Returns:
        `pixel_accuracy`, the fraction of pixels with the true label; `NAME_iou` of each class, the
        intersection over the union of its pixels; `mean_iou`, the mean of these. A class that
        occurs in neither has no IoU, and the mean ignores it.

    Raises:
        ValueError: The shapes differ, or there are no pixels.
    """
    confusion = _confusion(predicted, truth, len(class_names))
    if not confusion.sum():
        raise ValueError("no pixels to compare")
    return {"pixel_accuracy": _pixel_accuracy(confusion), **_ious(confusion, class_names)}


def score_names(class_names: Collection[str]) -> list[str]:
    """Return the names of all possible `scores`."""
    return ["pixel_accuracy", "mean_iou", *(f"{name}_iou" for name in class_names)]


def confusion_of(fakes: np.ndarray, truth: np.ndarray, palette: Palette) -> np.ndarray:
    """Compute the confusion matrix of images of label maps.

    The matrix of a set is the sum of those of its images.

    Args:
        fakes: uint8 [N, H, W, 3]; pixels have the evaluated class of the nearest colour.
        truth: Images of the same shape. A pixel whose nearest colour is an ignored one is ignored,
            which tolerates the soft edges of resized or compressed maps.
        palette: Palette of both.

    Returns:
        int64 [true class, predicted class].

    Raises:
        ValueError: The shapes differ.
    """
    # Ignored pixels get a label after the last class.
    everything = {**palette.classes, "": palette.ignored}
    return _confusion(
        assign(fakes, palette.classes), assign(truth, everything), len(palette.classes)
    )


def published_scores(confusion: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """Compute the scores of Long et al. 2015, which pix2pix and CycleGAN report for label maps.

    Args:
        confusion: Sum of `confusion_of` over a set.
        class_names: Names of the classes by label.

    Returns:
        `pixel_accuracy`, the fraction of pixels with the true class; `class_accuracy`, the mean of
        `NAME_accuracy`, the fraction of a class's pixels that are predicted as such; `mean_iou`,
        the mean of `NAME_iou`, as in `scores`. A class that the truth lacks has no accuracy, one
        that both lack no IoU, and means ignore it. (The script of pix2pix counts such classes as 0;
        Cityscapes has every class.)

    Raises:
        ValueError: There are no pixels.
    """
    if not confusion.sum():
        raise ValueError("no pixels of evaluated classes")
    true_pixels = confusion.sum(axis=1)
    accuracies = {
        f"{name}_accuracy": float(confusion[k, k] / true_pixels[k])
        for k, name in enumerate(class_names)
        if true_pixels[k]
    }
    return {
        "pixel_accuracy": _pixel_accuracy(confusion),
        "class_accuracy": float(np.mean(list(accuracies.values()))),
        **_ious(confusion, class_names),
        **accuracies,
    }


def published_score_names(class_names: Collection[str]) -> list[str]:
    """Return the names of all possible `published_scores`."""
    accuracies = (f"{name}_accuracy" for name in class_names)
    return [*score_names(class_names), "class_accuracy", *accuracies]


def _confusion(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Count [true label, predicted label], without pixels whose true label is `classes` or more."""
    if predicted.shape != truth.shape:
        raise ValueError(f"cannot compare labels of shapes {predicted.shape} and {truth.shape}")
    counted = truth < classes
    cells = truth[counted].astype(np.int64) * classes + predicted[counted]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def _pixel_accuracy(confusion: np.ndarray) -> float:
    return float(np.trace(confusion) / confusion.sum())


def _ious(confusion: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    intersection = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - intersection
    ious = {
        f"{name}_iou": float(intersection[k] / union[k])
        for k, name in enumerate(class_names)
        if union[k]
    }
    return {"mean_iou": float(np.mean(list(ious.values()))), **ious}
