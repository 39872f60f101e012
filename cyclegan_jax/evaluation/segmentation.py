"""Pictures read as label maps by their colours, and label maps compared."""

from collections.abc import Mapping, Sequence

import numpy as np


def assign(pictures: np.ndarray, palette: Mapping[str, Sequence[Sequence[int]]]) -> np.ndarray:
    """Gives every pixel the class of the nearest palette colour.

    Args:
        pictures: uint8 [N, H, W, 3].
        palette: the colours (RGB, 0 to 255) of each class; a class may have several.

    Returns:
        uint8 [N, H, W]: positions of the classes in the palette. Nearest is by Euclidean distance
        in RGB; of equally near colours the first in the palette's order counts.
    """
    colours = [
        (number, np.array(colour, np.int32))
        for number, class_colours in enumerate(palette.values())
        for colour in class_colours
    ]
    labels = np.zeros(pictures.shape[:-1], np.uint8)
    nearest = np.full(pictures.shape[:-1], np.iinfo(np.int32).max)
    for number, colour in colours:
        distance = np.sum((pictures - colour) ** 2, axis=-1)
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
        truth: labels of the same shape and range.
        class_names: the classes' names by label.

    Returns:
        `pixel_accuracy`, the share of pixels with the true label; `NAME_iou` for each class, the
        pixels where both have it over those where either has; `mean_iou`, the mean of these.
        A class that neither of the two contains has no IoU: its key is left out, the mean too
        leaves it out.

    Raises:
        ValueError: the shapes differ, or there is no pixel.
    """
    if predicted.shape != truth.shape or not truth.size:
        raise ValueError(f"cannot compare labels of shapes {predicted.shape} and {truth.shape}")
    classes = len(class_names)
    pairs = truth.astype(np.int64).ravel() * classes + predicted.ravel()
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    both = np.diag(confusion)
    either = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    ious = {
        f"{name}_iou": float(both[k] / either[k]) for k, name in enumerate(class_names) if either[k]
    }
    return {
        "pixel_accuracy": float(both.sum() / confusion.sum()),
        "mean_iou": float(np.mean(list(ious.values()))),
        **ious,
    }
