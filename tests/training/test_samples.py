"""Samples of a run: the images they show, the steps they are of, and what they leave unchanged."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cyclegan_jax import data
from cyclegan_jax.build import build_networks, build_state
from cyclegan_jax.training import build_sample_images, train
from cyclegan_jax.utils import image_io
from cyclegan_jax.utils.errors import UserError
from tests import short

HEIGHT, WIDTH = 16, 32
ROWS = 2


def sampled_config(num_steps=4, **changes):
    """Return a configuration of wide images with random samples at steps 0, 2 and 4."""
    config = short.get_config()
    config.num_steps = num_steps
    config.data.update({"shapes_size": 32, "shapes_test": 30})
    config.data.update({"transform": "resize_and_crop", "load_size": 32})
    config.data.update({"crop_size": HEIGHT, "crop_width": WIDTH, "interpolation": "nearest"})
    config.sample_every_steps = config.checkpoint_every_steps = 2
    config.sample_at_start = config.sample_random = config.sample_batch = True
    config.sample_images = ROWS
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The work directory and the last state of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("samples") / "run"
    return workdir, train(sampled_config(), workdir)


def grids(workdir):
    """Return {path: bytes} of all samples."""
    folder = workdir / "samples"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


def rows(path):
    """Return the images of a sample, [ROWS, 4] of [HEIGHT, WIDTH, 3]."""
    grid = image_io.read_image(path)
    return [
        [
            grid[top : top + HEIGHT, left : left + WIDTH]
            for left in range(0, 4 * (WIDTH + 2), WIDTH + 2)
        ]
        for top in range(0, grid.shape[0], HEIGHT + 2)
    ]


def shown(path, source):
    """Return the indices of the images in a source that a sample shows."""
    originals = [
        np.asarray(Image.fromarray(source[i]).resize((WIDTH, HEIGHT), 0)) for i in range(30)
    ]
    return [
        [i for i, image in enumerate(originals) if np.array_equal(image, row[0])]
        for row in rows(path)
    ]


def assert_same_state(actual, expected):
    """Assert that parameters, optimisers and pools of two states are equal to the last bit."""
    for part in ("params", "optimizers", "pools", "step"):
        jax.tree.map(np.testing.assert_array_equal, getattr(actual, part), getattr(expected, part))


def test_steps(run):
    """The first sample is of step 0, and the period counts from there; so do those of batches."""
    steps = {re.sub("_.*", "", name) for name in grids(run[0])}
    assert steps == {"00000000", "00000002", "00000004", *(f"batch/{s:08d}" for s in (0, 2, 4))}


def test_random_samples_are_distinct_test_images(run):
    """Each sample shows other test images, and none twice; A and B are drawn on their own."""
    test_a, test_b = data.open_split(sampled_config().data, "test")
    drawn = {}
    for step in (0, 2, 4):
        for name, source in (("a_to_b", test_a), ("b_to_a", test_b)):
            found = shown(run[0] / "samples" / f"{step:08d}_{name}.png", source)
            assert len(found) == ROWS
            assert all(len(indices) == 1 for indices in found)
            drawn[step, name] = tuple(indices[0] for indices in found)
            assert len(set(drawn[step, name])) == ROWS
    assert len(set(drawn.values())) == 6


def test_the_first_sample_is_of_the_untrained_networks(run):
    """The translation at step 0 is that of the initial generator, also of the first batch."""
    config = sampled_config()
    params = jax.jit(lambda: build_state(config, (HEIGHT, WIDTH)).params["gen_ab"])()
    generator = build_networks(config).gen_ab
    for folder in ("samples", "samples/batch"):
        image, translated, *_ = rows(run[0] / folder / "00000000_a_to_b.png")[0]
        output = generator.apply({"params": params}, image_io.to_float(jnp.asarray(image[None])))
        difference = image_io.to_uint8(np.asarray(output[0])).astype(int) - translated
        assert np.abs(difference).max() <= 1


def test_samples_do_not_change_training(run, tmp_path):
    """Without samples the run ends in the same bits."""
    fields = ("sample_at_start", "sample_random", "sample_batch")
    config = sampled_config(sample_every_steps=0, **dict.fromkeys(fields, False))
    assert_same_state(train(config, tmp_path / "run"), run[1])


def test_a_resumed_run_has_the_same_samples(run, tmp_path):
    """A run that stops at step 2 and is resumed writes the same files and ends in the same bits."""
    train(sampled_config(num_steps=2), tmp_path / "run")
    first = tmp_path / "run" / "samples" / "00000000_a_to_b.png"
    first.unlink()
    state = train(sampled_config(), tmp_path / "run")
    assert not first.exists()  # only a run that starts anew samples its start
    assert_same_state(state, run[1])
    expected = grids(run[0])
    del expected[first.name]
    assert grids(tmp_path / "run") == expected


@pytest.mark.parametrize(
    ("transform", "size", "expected"), [("none", (40, 30), "40x32"), ("crop", (15, 40), "15x40")]
)
def test_random_samples_of_unsuitable_test_images(config, tmp_path, transform, size, expected):
    """A test image of another size, or too small for the crop, is refused before training."""
    for split in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / split).mkdir()
        for i in range(6):
            Image.new("RGB", (40, 40)).save(tmp_path / split / f"{i}.png")
    Image.new("RGB", size).save(tmp_path / "testB" / "odd.png")
    config.data.update({"source": "folder", "dir": str(tmp_path), "crop_size": 16})
    config.data.transform = transform
    config.sample_random = True
    with pytest.raises(UserError, match=f"testB/odd.png.* {expected}"):
        build_sample_images(config, data.open_sources(config.data))
