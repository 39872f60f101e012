"""Assigning colours and comparing labels, against tables worked by hand and plain loops."""

import numpy as np
import pytest

from cyclegan_jax.evaluation.segmentation import assign, scores

PALETTE = {"dark": [[0, 0, 0]], "warm": [[200, 100, 0], [250, 0, 0]], "cold": [[0, 0, 250]]}


def test_pixels_take_the_nearest_colours_class() -> None:
    """Worked by hand, with both colours of one class and values that would wrap in 8 bits."""
    table = [
        ([0, 0, 0], 0),
        ([10, 40, 10], 0),
        ([190, 120, 30], 1),
        ([255, 20, 20], 1),
        ([60, 60, 255], 2),
        ([255, 255, 255], 1),  # squared distances 195075; 92075, 130050; 130050
    ]
    picture = np.array([[colour for colour, _ in table]], np.uint8)[None]
    assert assign(picture, PALETTE).tolist() == [[[label for _, label in table]]]


def test_of_equally_near_colours_the_first_counts() -> None:
    """(0, 0, 125) lies half-way between dark and cold."""
    picture = np.array([0, 0, 125], np.uint8).reshape(1, 1, 1, 3)
    assert assign(picture, PALETTE).item() == 0
    turned = {name: PALETTE[name] for name in ("cold", "dark")}
    assert assign(picture, turned).item() == 0


def test_assign_equals_a_plain_loop() -> None:
    """Random pictures, pixel by pixel with Python integers."""
    pictures = np.random.default_rng(0).integers(0, 256, (2, 7, 5, 3), np.uint8)
    colours = [(k, c) for k, cs in enumerate(PALETTE.values()) for c in cs]
    labels = assign(pictures, PALETTE)
    assert labels.dtype == np.uint8
    for where in np.ndindex(2, 7, 5):
        distances = [
            sum((int(pictures[where][i]) - c[i]) ** 2 for i in range(3)) for _, c in colours
        ]
        assert labels[where] == colours[distances.index(min(distances))][0]


def test_scores_of_a_table_worked_by_hand() -> None:
    """Five pixels. x: both 1, either 3; y: both 2, either 3; z: both 0, either 1."""
    truth = np.array([[[0, 0, 1, 1, 2]]])
    predicted = np.array([[[0, 1, 1, 1, 0]]])
    expected = {
        "pixel_accuracy": 3 / 5,
        "x_iou": 1 / 3,
        "y_iou": 2 / 3,
        "z_iou": 0.0,
        "mean_iou": 1 / 3,
    }
    assert scores(predicted, truth, ["x", "y", "z"]) == pytest.approx(expected)


def test_a_class_in_neither_is_left_out() -> None:
    """No z anywhere: the mean is over x (2 of 3) and y (1 of 2)."""
    truth = np.array([[[0, 0, 0, 1]]])
    predicted = np.array([[[0, 0, 1, 1]]])
    result = scores(predicted, truth, ["x", "y", "z"])
    assert "z_iou" not in result
    assert result["mean_iou"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_a_class_only_predicted_counts_as_zero() -> None:
    """A class that was invented is wrong, not absent."""
    result = scores(np.array([[[0, 1]]]), np.array([[[0, 0]]]), ["x", "y"])
    assert result == {"pixel_accuracy": 0.5, "x_iou": 0.5, "y_iou": 0.0, "mean_iou": 0.25}


def test_scores_count_pixels_over_the_whole_set() -> None:
    """Equal to sets of pixel positions; not the mean of per-picture figures."""
    rng = np.random.default_rng(1)
    truth, predicted = rng.integers(0, 3, (2, 4, 6, 6))
    truth[0] = 0
    result = scores(predicted.astype(np.uint8), truth.astype(np.uint8), ["x", "y", "z"])
    places = list(np.ndindex(truth.shape))
    ious = []
    for k, name in enumerate("xyz"):
        one = {p for p in places if truth[p] == k}
        other = {p for p in places if predicted[p] == k}
        ious.append(len(one & other) / len(one | other))
        assert result[f"{name}_iou"] == pytest.approx(ious[-1])
    assert result["mean_iou"] == pytest.approx(sum(ious) / 3)
    right = sum(truth[p] == predicted[p] for p in places)
    assert result["pixel_accuracy"] == pytest.approx(right / len(places))


def test_unequal_shapes_are_refused() -> None:
    """Nothing is broadcast silently."""
    with pytest.raises(ValueError, match="shapes"):
        scores(np.zeros((1, 2, 2), int), np.zeros((1, 2), int), ["x"])
