"""Classes by colour and scores of label maps, against values worked by hand and plain loops."""

from pathlib import Path

import numpy as np
import pytest

from cyclegan_jax.data.shapes import ShapesSource
from cyclegan_jax.evaluation.palettes import (
    CITYSCAPES,
    FACADES,
    PALETTES,
    Palette,
    find_palette,
    read_palette,
)
from cyclegan_jax.evaluation.segmentation import (
    assign,
    confusion_of,
    published_score_names,
    published_scores,
    score_names,
    scores,
)
from cyclegan_jax.evaluation.truth import truth_results
from cyclegan_jax.utils.errors import UserError

PALETTE = {"dark": [[0, 0, 0]], "warm": [[200, 100, 0], [250, 0, 0]], "cold": [[0, 0, 250]]}


def test_pixels_have_the_class_of_the_nearest_colour() -> None:
    """Worked by hand, with two colours of one class and values that would overflow 8 bits."""
    table = [
        ([0, 0, 0], 0),
        ([10, 40, 10], 0),
        ([190, 120, 30], 1),
        ([255, 20, 20], 1),
        ([60, 60, 255], 2),
        ([255, 255, 255], 1),  # squared distances 195075; 92075, 130050; 130050
    ]
    image = np.array([[colour for colour, _ in table]], np.uint8)[None]
    assert assign(image, PALETTE).tolist() == [[[label for _, label in table]]]


def test_first_of_equally_near_colours_wins() -> None:
    """(0, 0, 125) is half-way between dark and cold."""
    image = np.array([0, 0, 125], np.uint8).reshape(1, 1, 1, 3)
    assert assign(image, PALETTE).item() == 0
    turned = {name: PALETTE[name] for name in ("cold", "dark")}
    assert assign(image, turned).item() == 0


def test_assign_equals_a_plain_loop() -> None:
    """Random images, pixel by pixel in Python integers."""
    images = np.random.default_rng(0).integers(0, 256, (2, 7, 5, 3), np.uint8)
    colours = [(k, c) for k, cs in enumerate(PALETTE.values()) for c in cs]
    labels = assign(images, PALETTE)
    assert labels.dtype == np.uint8
    for pixel in np.ndindex(2, 7, 5):
        distances = [sum((int(images[pixel][i]) - c[i]) ** 2 for i in range(3)) for _, c in colours]
        assert labels[pixel] == colours[distances.index(min(distances))][0]


def test_scores_of_a_table_worked_by_hand() -> None:
    """Five pixels; intersection and union of x are 1 and 3, of y 2 and 3, of z 0 and 1."""
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


def test_absent_class_is_ignored() -> None:
    """Without z the mean is over x (2 of 3) and y (1 of 2)."""
    truth = np.array([[[0, 0, 0, 1]]])
    predicted = np.array([[[0, 0, 1, 1]]])
    result = scores(predicted, truth, ["x", "y", "z"])
    assert "z_iou" not in result
    assert result["mean_iou"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_class_that_is_only_predicted_counts_as_zero() -> None:
    """A predicted class that the truth lacks is wrong, not absent."""
    result = scores(np.array([[[0, 1]]]), np.array([[[0, 0]]]), ["x", "y"])
    assert result == {"pixel_accuracy": 0.5, "x_iou": 0.5, "y_iou": 0.0, "mean_iou": 0.25}


def test_scores_count_pixels_over_the_whole_set() -> None:
    """IoU from sets of pixel positions; not the mean of per-image values."""
    rng = np.random.default_rng(1)
    truth, predicted = rng.integers(0, 3, (2, 4, 6, 6))
    truth[0] = 0
    result = scores(predicted.astype(np.uint8), truth.astype(np.uint8), ["x", "y", "z"])
    positions = list(np.ndindex(truth.shape))
    ious = []
    for k, name in enumerate("xyz"):
        one = {p for p in positions if truth[p] == k}
        other = {p for p in positions if predicted[p] == k}
        ious.append(len(one & other) / len(one | other))
        assert result[f"{name}_iou"] == pytest.approx(ious[-1])
    assert result["mean_iou"] == pytest.approx(sum(ious) / 3)
    correct = sum(truth[p] == predicted[p] for p in positions)
    assert result["pixel_accuracy"] == pytest.approx(correct / len(positions))
    assert set(result) == set(score_names("xyz"))


def test_different_shapes_are_refused() -> None:
    """Nothing is broadcast silently."""
    with pytest.raises(ValueError, match="shapes"):
        scores(np.zeros((1, 2, 2), int), np.zeros((1, 2), int), ["x"])


def painted(names: str, palette: Palette) -> np.ndarray:
    """Paint a row of pixels by the first letters of classes; "-" is the first ignored colour."""
    colours = {name[0]: colours[0] for name, colours in palette.classes.items()}
    colours["-"] = palette.ignored[0]
    return np.array([[[colours[letter] for letter in names]]], np.uint8)


FOUR = Palette(
    {"road": [[9, 0, 0]], "sky": [[0, 99, 0]], "car": [[0, 0, 200]], "bus": [[99, 99, 0]]},
    ignored=[[255, 255, 255]],
)


def test_published_scores_of_a_table_worked_by_hand() -> None:
    """Ten evaluated pixels: 5 of road, 4 of them correct; 5 of sky, 3 of them correct.

    Predicted are road 5, sky 4, car 1 and bus 0, so the unions are 6, 6, 1 and 0. Predictions at
    ignored pixels do not count, even as a class that occurs nowhere else.
    """
    truth = painted("rrrrrsssss--", FOUR)
    fakes = painted("rrrrsssscrbb", FOUR)
    confusion = confusion_of(fakes, truth, FOUR)
    assert confusion.tolist() == [[4, 1, 0, 0], [1, 3, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    expected = {
        "pixel_accuracy": 7 / 10,
        "class_accuracy": (4 / 5 + 3 / 5) / 2,
        "mean_iou": (4 / 6 + 3 / 6 + 0) / 3,
        "road_accuracy": 4 / 5,
        "sky_accuracy": 3 / 5,
        "road_iou": 4 / 6,
        "sky_iou": 3 / 6,
        "car_iou": 0.0,
    }
    assert published_scores(confusion, list(FOUR.classes)) == pytest.approx(expected)


def test_published_scores_are_those_of_the_fully_convolutional_networks() -> None:
    """The formulas of Long et al. in NumPy, with undefined values excluded from means."""
    rng = np.random.default_rng(2)
    confusion = rng.integers(0, 50, (6, 6))
    confusion[2] = 0  # predicted, never true
    confusion[4] = confusion[:, 4] = 0
    names = [f"c{k}" for k in range(6)]
    with np.errstate(invalid="ignore"):
        accuracies = np.diag(confusion) / confusion.sum(1)
        ious = np.diag(confusion) / (confusion.sum(1) + confusion.sum(0) - np.diag(confusion))
    result = published_scores(confusion, names)
    assert set(result) <= set(published_score_names(names))
    assert result["pixel_accuracy"] == pytest.approx(np.diag(confusion).sum() / confusion.sum())
    assert result["class_accuracy"] == pytest.approx(np.nanmean(accuracies))
    assert result["mean_iou"] == pytest.approx(np.nanmean(ious))
    for k, name in enumerate(names):
        assert result.get(f"{name}_accuracy", np.nan) == pytest.approx(accuracies[k], nan_ok=True)
        assert result.get(f"{name}_iou", np.nan) == pytest.approx(ious[k], nan_ok=True)


def test_ignored_colours_are_never_predicted() -> None:
    """A translation has evaluated classes only, even where an ignored colour is nearest.

    From (200, 200, 255) the squared distance to white is 6050; to the four classes it is 141506,
    115226, 83025 and 85427: a car.
    """
    truth = painted("rs", FOUR)
    fakes = np.full_like(truth, (200, 200, 255))
    expected = [[0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert confusion_of(fakes, truth, FOUR).tolist() == expected


def test_confusion_matrices_add_up() -> None:
    """The matrix of a set is the sum over its images, which may differ in size."""
    rng = np.random.default_rng(3)
    fakes, truth = rng.integers(0, 256, (2, 5, 8, 8, 3), np.uint8)
    parts = [confusion_of(f[None], t[None], FOUR) for f, t in zip(fakes, truth, strict=True)]
    np.testing.assert_array_equal(sum(parts), confusion_of(fakes, truth, FOUR))


def test_only_ignored_pixels_are_refused() -> None:
    """Scores without evaluated pixels are an error, not a division by zero."""
    nothing = painted("--", FOUR)
    with pytest.raises(ValueError, match="no pixel"):
        published_scores(confusion_of(nothing, nothing, FOUR), list(FOUR.classes))


@pytest.mark.parametrize(
    ("name", "classes"), [("cityscapes", 19), ("facades", 12), ("shapes_a", 3), ("shapes_b", 3)]
)
def test_colours_of_built_in_palettes_are_distinct(name: str, classes: int) -> None:
    """Each colour occurs once and is assigned to its own class, ignored ones to none."""
    palette = PALETTES[name]
    assert find_palette(name) is palette and len(palette.classes) == classes
    colours = [colour for colours in palette.classes.values() for colour in colours]
    everything = np.array([*colours, *palette.ignored])
    assert len(np.unique(everything, axis=0)) == len(everything)
    image = everything.astype(np.uint8)[None, None]
    confusion = confusion_of(image, image, palette)
    np.testing.assert_array_equal(confusion, np.diag(list(map(len, palette.classes.values()))))


def test_published_colours() -> None:
    """Cityscapes' evaluated classes in order; CMP's colours are the 12 of MATLAB's jet."""
    assert " ".join(CITYSCAPES.classes) == (
        "road sidewalk building wall fence pole traffic_light traffic_sign vegetation terrain sky "
        "person rider car truck bus train motorcycle bicycle"
    )
    # As other programs write them into the palettes of their predictions.
    numbers = (
        "128 64 128 244 35 232 70 70 70 102 102 156 190 153 153 153 153 153 250 170 30 220 220 0 "
        "107 142 35 152 251 152 70 130 180 220 20 60 255 0 0 0 0 142 0 0 70 0 60 100 0 80 100 "
        "0 0 230 119 11 32"
    )
    assert [v for (c,) in CITYSCAPES.classes.values() for v in c] == [*map(int, numbers.split())]
    for k, (colour,) in enumerate(FACADES.classes.values()):
        # Blue, green and red each ramp up, stay for four colours and ramp down, 3 colours apart.
        ramps = [max(0, min(1, (4.5 - abs(k - centre)) / 3)) for centre in (8.5, 5.5, 2.5)]
        assert colour == [round(255 * ramp) for ramp in ramps]


def test_scores_of_the_built_in_set_agree_with_its_truth() -> None:
    """Test scenes evaluated as label maps have the scores of the known labels."""
    test_a, test_b = (ShapesSource("test", domain, 32, 6) for domain in "ab")
    rng = np.random.default_rng(4)
    truths = {d: np.stack([s[i] for i in range(6)]) for d, s in (("a", test_a), ("b", test_b))}
    fakes = {d: np.where(rng.random((6, 32, 32, 1)) < 0.4, truths["a"], truths["b"]) for d in "ab"}
    results = truth_results(fakes["b"], fakes["a"], test_a, test_b)
    for direction, domain, source in (("a_to_b", "b", test_b), ("b_to_a", "a", test_a)):
        palette = Palette(source.palette)
        confusion = confusion_of(fakes[domain], truths[domain], palette)
        for name, value in published_scores(confusion, list(palette.classes)).items():
            if not name.endswith("_accuracy") or name == "pixel_accuracy":
                assert value == results[f"{direction}/{name}"]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_palette_file(tmp_path: Path) -> None:
    """Names with spaces, several colours of a class, ignored ones, comments and blank lines."""
    path = write(
        tmp_path / "p.txt",
        "# name red green blue\n\nsea  0 0 255\nold town 200 10 10\nignore 0 0 0\n"
        "  sea 0 80 255\r\n",
    )
    palette = find_palette(str(path))
    assert palette == Palette(
        {"sea": [(0, 0, 255), (0, 80, 255)], "old_town": [(200, 10, 10)]}, [(0, 0, 0)]
    )
    assert list(palette.classes) == ["sea", "old_town"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a 0 0 0\nb 1 2\n",
            "line 2: expected NAME RED GREEN BLUE with integers from 0 to 255, got 'b 1 2'",
        ),
        ("a 0 0 0\n\n1 2 3\n", "line 3: expected NAME"),
        ("a 0 0 256\n", "line 1"),
        ("a 0 0 -1\n", "line 1"),
        ("a 0 0 1.5\n", "line 1"),
        ("a 0,0,1\n", "line 1"),
        ("a 0 0 ²\n", "line 1"),
        ("a 1 2 3\nb 0 0 0\nc 1 2 3\n", "line 3: expected a new colour, got 1 2 3 of line 1"),
        ("a 1 2 3\nignore 0 0 0\n", "expected 2 to 255 classes, got 1"),
        ("", "got 0"),
        ("".join(f"c{i} {i % 200} {i // 200} 0\n" for i in range(256)), "got 256"),
    ],
)
def test_wrong_palette_files(tmp_path: Path, text: str, expected: str) -> None:
    """The error is one line that names the file, the line and what is expected."""
    path = write(tmp_path / "p.txt", text)
    with pytest.raises(UserError) as error:
        read_palette(path)
    message = str(error.value)
    assert message.startswith(f"palette {path}") and expected in message and "\n" not in message


def test_an_unknown_palette_lists_the_choices(tmp_path: Path) -> None:
    """The error for a wrong name lists the choices; a file may also not be text."""
    with pytest.raises(
        UserError, match="cityscape: expected one of cityscapes, facades, shapes_a, .* or a file"
    ):
        find_palette("cityscape")
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        find_palette(str(tmp_path / "p.txt"))
