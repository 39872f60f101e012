"""The built-in dataset: determinism, shared and independent scenes, exact labels, low identity."""

import itertools

import numpy as np
import pytest

from cyclegan_jax.data.shapes import CLASSES, NOISE, PALETTES, ShapesSource
from cyclegan_jax.evaluation import segmentation
from cyclegan_jax.evaluation.truth import psnr, truth_results
from cyclegan_jax.utils.errors import UserError

DOMAINS = ("a", "b")


def images(source: ShapesSource) -> np.ndarray:
    return np.stack([source[i] for i in range(len(source))])


def labels(source: ShapesSource) -> np.ndarray:
    return np.stack([source.labels(i) for i in range(len(source))])


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("size", [8, 61, 64, 128])
def test_every_noisy_pixel_is_nearest_to_its_own_class(split: str, domain: str, size: int) -> None:
    """Assigning each pixel to the nearest colour gives exactly the labels of the image."""
    source = ShapesSource(split, domain, size, 20)
    drawn = images(source)
    assert drawn.dtype == np.uint8 and drawn.shape == (20, size, size, 3)
    np.testing.assert_array_equal(segmentation.assign(drawn, PALETTES[domain]), labels(source))


@pytest.mark.parametrize("domain", DOMAINS)
def test_noise_never_changes_a_class(domain: str) -> None:
    """Colours of two classes are over twice the maximum noise apart, and none is clipped."""
    palette = PALETTES[domain]
    assert tuple(palette) == CLASSES
    for one, other in itertools.combinations(CLASSES, 2):
        for c, d in itertools.product(palette[one], palette[other]):
            assert np.linalg.norm(np.subtract(c, d)) > 2 * NOISE * np.sqrt(3)
    flat = np.array(sum(palette.values(), []))
    assert flat.min() - NOISE >= 0 and flat.max() + NOISE <= 255


def test_an_image_depends_on_split_domain_and_index_alone() -> None:
    """The number of images and the order of access change nothing."""
    short, long = ShapesSource("train", "a", 32, 5), ShapesSource("train", "a", 32, 500)
    backwards = [long[i] for i in reversed(range(5))][::-1]
    np.testing.assert_array_equal(images(short), backwards)


def test_a_scene_is_the_same_at_every_size() -> None:
    """Pixel centres common to sizes 21 and 63 have the same label in both."""
    small, large = ShapesSource("test", "b", 21, 30), ShapesSource("test", "b", 63, 30)
    np.testing.assert_array_equal(labels(small), labels(large)[:, 1::3, 1::3])


def test_test_scenes_are_shared_and_training_scenes_are_not() -> None:
    """Test labels are equal in both domains; no two of the 600 scenes are equal otherwise."""
    scenes = {
        (split, domain): labels(ShapesSource(split, domain, 64, 200))
        for split in ("train", "test")
        for domain in DOMAINS
    }
    np.testing.assert_array_equal(scenes["test", "a"], scenes["test", "b"])
    del scenes["test", "b"]
    assert len({scene.tobytes() for group in scenes.values() for scene in group}) == 600


@pytest.mark.parametrize("domain", DOMAINS)
def test_areas_of_the_classes(domain: str) -> None:
    """Every scene has all classes; on average ground is largest, and objects over a fifth."""
    scenes = labels(ShapesSource("train", domain, 64, 400))
    areas = np.stack([(scenes == k).mean(axis=(1, 2)) for k in range(3)], axis=1)
    assert areas.min() > 0.05
    assert 0.15 < np.quantile(areas[:, 2], 0.05) < np.quantile(areas[:, 2], 0.95) < 0.4
    sky, ground, objects = areas.mean(axis=0)
    assert ground > sky > objects > 0.2
    assert not (scenes[:, 0] == 1).any() and not (scenes[:, -1] == 0).any()


@pytest.mark.parametrize("size", [32, 64, 128])
def test_stripes_are_periodic_fixed_and_mirror_symmetric(size: int) -> None:
    """A column has one colour in all objects; columns alternate with equal frequency."""
    source = ShapesSource("train", "b", size, 60)
    dark = images(source)[..., 0] < 128
    is_object = labels(source) == 2
    columns = []
    for x in range(size):
        seen = dark[:, :, x][is_object[:, :, x]]
        assert seen.size and seen.min() == seen.max()
        columns.append(bool(seen[0]))
    period = size // 16
    assert columns == columns[::-1] or size == 32
    assert columns[period:] == columns[:-period]
    assert sum(columns[:period]) == period // 2


def test_the_identity_scores_low() -> None:
    """Unchanged images have the right sky and nothing else."""
    test_a, test_b = (ShapesSource("test", d, 64, 64) for d in DOMAINS)
    metrics = truth_results(images(test_a), images(test_b), test_a, test_b)
    for direction in ("a_to_b", "b_to_a"):
        assert metrics[f"{direction}/pixel_accuracy"] < 0.4
        assert metrics[f"{direction}/object_iou"] < 0.05
        assert metrics[f"{direction}/ground_iou"] < 0.05
    assert metrics["b_to_a/psnr"] < 12


def test_the_true_translation_scores_perfectly() -> None:
    """The image of the other domain has every pixel right."""
    test_a, test_b = (ShapesSource("test", d, 64, 8) for d in DOMAINS)
    metrics = truth_results(images(test_b), images(test_a), test_a, test_b)
    assert metrics.pop("b_to_a/psnr") == np.inf
    assert set(metrics) == {
        f"{direction}/{metric}"
        for direction in ("a_to_b", "b_to_a")
        for metric in ("pixel_accuracy", "mean_iou", "sky_iou", "ground_iou", "object_iou")
    }
    assert set(metrics.values()) == {1.0}


def test_each_direction_is_scored_against_its_own_images() -> None:
    """Sky-only images in one direction do not change the metrics of the other."""
    test_a, test_b = (ShapesSource("test", d, 32, 4) for d in DOMAINS)
    sky = np.broadcast_to(np.uint8(PALETTES["a"]["sky"][0]), (4, 32, 32, 3))
    metrics = truth_results(sky, images(test_a), test_a, test_b)
    area = float((labels(test_a) == 0).mean())
    assert metrics["a_to_b/pixel_accuracy"] == pytest.approx(area)
    assert metrics["a_to_b/object_iou"] == 0
    assert metrics["b_to_a/pixel_accuracy"] == 1


def test_psnr_is_per_image() -> None:
    """Errors of 1 and 255 everywhere are 48.13 dB and 0 dB (20 log10(255 / error))."""
    truth = np.zeros((2, 4, 4, 3), np.uint8)
    fakes = np.stack([np.full((4, 4, 3), 1, np.uint8), np.full((4, 4, 3), 255, np.uint8)])
    np.testing.assert_allclose(psnr(fakes, truth), [48.1308, 0], atol=1e-4)


def test_a_source_ends() -> None:
    """Iteration ends after `len` images, and names are unique."""
    source = ShapesSource("test", "b", 16, 3)
    assert len(list(source)) == len(source) == 3
    assert len({source.name(i) for i in range(3)}) == 3
    with pytest.raises(IndexError):
        source[-1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("val", "a", 64, 1), "expected split train or test, got 'val'"),
        (("train", "c", 64, 1), "expected domain a or b, got 'c'"),
        (("train", "a", 4, 1), "at least 8 pixels, got 4"),
        (("train", "a", 64, 0), "at least 1 image, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple, expected: str) -> None:
    """Each is an error with the choices or the minimum."""
    with pytest.raises(UserError, match=expected):
        ShapesSource(*arguments)
