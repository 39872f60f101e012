"""The published sets, with TFDS's own stand-in for their data."""

import sys

import pytest

from configs import default
from cyclegan_jax.data import published
from cyclegan_jax.data.sources import load_sources
from cyclegan_jax.utils.errors import UserError


def data_config(**fields):
    data = default.get_config().data
    data.source = "tfds"
    data.update(fields)
    return data


def test_names_are_those_of_tfds():
    """The names that are checked before TFDS is imported are the ones TFDS has."""
    tfds = pytest.importorskip("tensorflow_datasets")
    assert sorted(published.NAMES) == sorted(tfds.builder_cls("cycle_gan").builder_configs)


def test_images_of_both_domains(monkeypatch):
    """Splits, names, the cap and the direction, on data that TFDS makes up."""
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(published, "_check_reachable", lambda builder: None)
    with tfds.testing.mock_data(num_examples=5):
        source_a, source_b = load_sources(data_config(name="maps", max_images=3), "train")
        swapped, _ = load_sources(data_config(name="maps", direction="b_to_a"), "test")
        assert (len(source_a), len(source_b), len(swapped)) == (3, 3, 5)
        assert source_a.name(2) == "maps/trainA[2]"
        assert source_b.name(0) == "maps/trainB[0]"
        assert swapped.name(4) == "maps/testB[4]"
        image = source_a[2]
    assert image.ndim == 3
    assert image.shape[-1] == 3
    assert image.dtype == "uint8"


def test_wrong_names_list_the_choices(monkeypatch):
    """A name that is not published gives the nearest and all, without importing TFDS."""
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="did you mean horse2zebra") as error:
        load_sources(data_config(name="horses2zebras"), "train")
    assert all(name in str(error.value) for name in published.NAMES)
    with pytest.raises(UserError, match="The published sets are"):
        load_sources(data_config(name=""), "train")


def test_without_tfds_says_so(monkeypatch):
    """A missing package is one line."""
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="data.source=tfds needs tensorflow-datasets"):
        load_sources(data_config(), "train")


def test_without_network_says_so(tmp_path, monkeypatch):
    """No connection is one line that names set, folder and host, at once."""
    pytest.importorskip("tensorflow_datasets")

    def urlopen(request, timeout):
        raise published.urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(published.urllib.request, "urlopen", urlopen)
    with pytest.raises(UserError, match="data.name=maps: not found in .* no connection to https"):
        load_sources(data_config(name="maps", dir=str(tmp_path)), "train")


def test_damaged_records_are_named():
    """A record that does not decode is a UserError with set, split and number."""
    source = published.PublishedSource([{"image": b"not an image"}], 1, "maps/trainA")
    with pytest.raises(UserError, match=r"image maps/trainA\[0\] cannot be read"):
        source[0]
