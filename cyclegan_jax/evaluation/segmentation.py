"""Images read as label maps by their colours, and label maps compared."""

from collections.abc import Mapping, Sequence

import numpy as np

from cyclegan_jax.evaluation.palettes import Palette


def assign(images: np.ndarray, palette: Mapping[str, Sequence[Sequence[int]]]) -> np.ndarray:
    """Gives every pixel the class of the nearest palette colour.

    Args:
        images: uint8 [N, H, W, 3].
        palette: the colours (RGB, 0 to 255) of each class; a class may have several.

    Returns:
        uint8 [N, H, W]: positions of the classes in the palette. Nearest is by Euclidean distance
        in RGB; of equally near colours the first in the palette's order counts.
    """
    labels = np.zeros(images.shape[:-1], np.uint8)
    nearest = np.full(images.shape[:-1], np.iinfo(np.int32).max, np.int32)
    red, green, blue = np.moveaxis(images, -1, 0).astype(np.int32, order="C")
    for number, colours in enumerate(palette.values()):
        for r, g, b in colours:
            distance = (red - r) ** 2 + (green - g) ** 2 + (blue - b) ** 2
            nearer = distance < nearest
            labels[nearer] = number
            nearest[nearer] = distance[nearer]
    return labels


def scores(
    predicted: np.ndarray, truth: np.ndarray, class_names: Sequence[str]
) -> dict[str, float]:
    """Compares label maps over all their pixels together, as one confusion matrix.

    Args:
        predicted: labels [N, H, W], from 0 to len(class_names) - 1.
        truth: labels of the same shape and range; higher ones are left out.
        class_names: the classes' names by label.

    Returns:
        `pixel_accuracy`, the share of pixels with the true label; `NAME_iou` for each class, the
        pixels where both have it over those where either has; `mean_iou`, the mean of these.
        A class that neither of the two contains has no IoU: its key is left out, the mean too
        leaves it out.

    Raises:
        ValueError: the shapes differ, or there is no pixel.
    """
    confusion = _confusion(predicted, truth, len(class_names))
    if not confusion.sum():
        raise ValueError("cannot compare labels without a pixel")
    return {"pixel_accuracy": _pixel_accuracy(confusion), **_ious(confusion, class_names)}


def confusion_of(fakes: np.ndarray, truth: np.ndarray, palette: Palette) -> np.ndarray:
    """Counts how often which class was painted as which, in images of label maps.

    Matrices of several images add up to that of all.

    Args:
        fakes: uint8 [N, H, W, 3]; a pixel is of the evaluated class with the nearest colour.
        truth: of the same shape; a pixel that is nearest to an ignored colour is left out, which
            bears with the soft edges of maps that were resized or compressed.
        palette: of both.

    Returns:
        int64 [true class, painted class].

    Raises:
        ValueError: the shapes differ.
    """
    # Ignored pixels get a label past the last class.
    everything = {**palette.classes, "": palette.ignored}
    return _confusion(
        assign(fakes, palette.classes), assign(truth, everything), len(palette.classes)
    )


def published_scores(confusion: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """The scores of Long et al. 2015, which pix2pix and CycleGAN report for label maps.

    Args:
        confusion: the sum of `confusion_of` over a set.
        class_names: the classes' names by label.

    Returns:
        `pixel_accuracy`, the share of pixels with the true class; `class_accuracy`, the mean of
        `NAME_accuracy`, the share of a class's own pixels that have it; `mean_iou`, the mean of
        `NAME_iou`, as in `scores`. A class that the truth does not contain has no accuracy, one
        that neither contains no IoU: its key is left out, and the mean leaves it out. (The script
        of pix2pix counts such classes as 0; Cityscapes has every class.)

    Raises:
        ValueError: there is no pixel.
    """
    if not confusion.sum():
        raise ValueError("no pixel of an evaluated class")
    own = confusion.sum(axis=1)
    accuracies = {
        f"{name}_accuracy": float(confusion[k, k] / own[k])
        for k, name in enumerate(class_names)
        if own[k]
    }
    return {
        "pixel_accuracy": _pixel_accuracy(confusion),
        "class_accuracy": float(np.mean(list(accuracies.values()))),
        **_ious(confusion, class_names),
        **accuracies,
    }


def _confusion(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Counts of [truth, predicted]; pixels whose true label is past the last class are left out."""
    if predicted.shape != truth.shape:
        raise ValueError(f"cannot compare labels of shapes {predicted.shape} and {truth.shape}")
    counted = truth < classes
    pairs = truth[counted].astype(np.int64) * classes + predicted[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _pixel_accuracy(confusion: np.ndarray) -> float:
    return float(np.trace(confusion) / confusion.sum())


def _ious(confusion: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """`mean_iou` and `NAME_iou`, as `scores` has them."""
    both = np.diag(confusion)
    either = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    ious = {
        f"{name}_iou": float(both[k] / either[k]) for k, name in enumerate(class_names) if either[k]
    }
    return {"mean_iou": float(np.mean(list(ious.values()))), **ious}
