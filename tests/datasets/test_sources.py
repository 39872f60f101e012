"""Registry of sources, sources of a user's own, and how often a start of training opens them."""

import collections

import numpy as np
import pytest
from PIL import Image

from cyclegan_jax import config as config_lib
from cyclegan_jax.data import SOURCES, folder, open_sources, open_split
from cyclegan_jax.training import train
from cyclegan_jax.utils.errors import UserError
from tests import short
from tests.datasets.numbered import NumberedSource, make_config


def own_source(settings, split, domain):
    """Source of a user's own: five images for training in each domain, none for tests."""
    return NumberedSource(5 if domain == "a" else 7) if split == "train" else None


def no_source(settings, split, domain):
    """Source of a user's own that has nothing."""


def test_unknown_sources_list_the_names():
    """An unknown source is an error with all names and the form of a user's own."""
    message = f"data.source: expected one of {', '.join(SOURCES)}, or package.module:attribute"
    with pytest.raises(UserError, match=message):
        open_sources(make_config(source="web").data)


def test_a_source_of_a_users_own():
    """`module:attribute` names it; direction and limit apply to it as to the others."""
    name = f"{__name__}:own_source"
    sources = open_sources(make_config(source=name, direction="b_to_a", max_images=6).data)
    assert (len(sources.train_a), len(sources.train_b)) == (6, 5)
    assert sources.train_a.name(3) == "image-3.png"
    assert sources.test_a is None and sources.test_b is None


def test_training_images_are_required():
    """A source without training images is an error; without test images it is not."""
    settings = make_config(source=f"{__name__}:no_source").data
    assert open_split(settings, "test") == (None, None)
    with pytest.raises(UserError, match="no_source: expected training images of both domains"):
        open_sources(settings)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("source", "web", "config.data.source: expected one of tfds, folder"),
        ("source", "nowhere:source", "config.data.source=nowhere:source: cannot be imported"),
        ("transform", "squash", "config.data.transform: expected one of resize_and_crop, crop"),
        ("pairing", "random", "config.data.pairing: expected one of independent, serial"),
        ("epoch", "all", "config.data.epoch: expected one of larger, smaller"),
        ("direction", "sideways", "config.data.direction: expected one of a_to_b, b_to_a"),
        ("direction", "x:y", "config.data.direction: expected one of a_to_b, b_to_a"),
        ("channels_a", 5, "config.data.channels_a: expected one of 1, 2, 3, 4"),
        ("bit_depth", 12, "config.data.bit_depth: expected one of 8, 16"),
        ("load_size", 200, "data.crop_size: expected at most data.load_size=200, got 256"),
    ],
)
def test_the_configuration_is_checked_before_anything_is_opened(config, field, value, message):
    """Each wrong field of the section is one line with its name and the choices."""
    config.data.transform = "resize_and_crop"
    config.data[field] = value
    with pytest.raises(UserError, match=message):
        config_lib.check(config)


def test_a_start_of_training_opens_and_reads_once(tmp_path, monkeypatch):
    """Training with samples and metrics opens each source once, and reads each header once."""
    rng = np.random.default_rng(0)
    for name in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / name).mkdir()
        for i in range(3):
            image = Image.fromarray(rng.integers(0, 256, (18, 20, 3), np.uint8))
            image.save(tmp_path / name / f"{i}.png")
    opened, searched, headers = (collections.Counter() for _ in range(3))

    def counted(counter, function, key):
        return lambda *args: counter.update([key(*args)]) or function(*args)

    source = counted(opened, SOURCES["folder"], lambda settings, split, domain: split + domain)
    search = counted(searched, folder.search, lambda place, field: place.name)
    read_size = counted(headers, folder.read_size, lambda path: f"{path.parent.name}/{path.name}")
    monkeypatch.setitem(SOURCES, "folder", source)
    monkeypatch.setattr(folder, "search", search)
    monkeypatch.setattr(folder, "read_size", read_size)
    config = short.get_config()
    config.data.update(
        {"source": "folder", "dir": str(tmp_path), "transform": "crop", "crop_size": 16}
    )
    config.num_steps = config.evaluate_every_steps = 1
    train(config, tmp_path / "run")
    assert opened == {"traina": 1, "trainb": 1, "testa": 1, "testb": 1}
    assert searched == {"trainA": 1, "trainB": 1, "testA": 1, "testB": 1}
    assert headers == {f"train{domain}/{i}.png": 1 for domain in "AB" for i in range(3)}
