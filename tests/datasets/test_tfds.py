"""The published datasets, with the mock data of TFDS."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from configs import default
from cyclegan_jax.data import open_split
from cyclegan_jax.data import tfds as tfds_lib
from cyclegan_jax.utils.errors import UserError


def data_config(**fields):
    data = default.get_config().data
    data.source = "tfds"
    data.update(fields)
    return data


def test_names_are_those_of_tfds():
    """The names, which are checked before TFDS is imported, are those of TFDS."""
    tfds = pytest.importorskip("tensorflow_datasets")
    assert sorted(tfds_lib.NAMES) == sorted(tfds.builder_cls("cycle_gan").builder_configs)


@pytest.mark.smoke
def test_images_of_both_domains(tmp_path, monkeypatch):
    """Splits, names, data.max_images and data.direction."""
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(tfds_lib, "_check_reachable", lambda builder: None)
    with tfds.testing.mock_data(num_examples=5):
        source_a, source_b = open_split(
            data_config(name="maps", max_images=3, dir=str(tmp_path)), "train"
        )
        swapped, _ = open_split(
            data_config(name="maps", direction="b_to_a", dir=str(tmp_path)), "test"
        )
        assert (len(source_a), len(source_b), len(swapped)) == (3, 3, 5)
        assert source_a.name(2) == "maps/trainA[2]"
        assert source_b.name(0) == "maps/trainB[0]"
        assert swapped.name(4) == "maps/testB[4]"
        image = source_a[2]
    assert image.ndim == 3
    assert image.shape[-1] == 3
    assert image.dtype == "uint8"


def test_several_processes_prepare_a_dataset_once(tmp_path, monkeypatch):
    """All find it missing; one prepares it, and the others wait until it is complete."""
    together, prepared, done = threading.Barrier(2), [], threading.Event()

    class Builder:
        data_path = tmp_path / "cycle_gan" / "maps" / "1.0.0"

        def __init__(self, name, data_dir, file_format=None):
            self.found = done.is_set()

        def is_prepared(self):
            return self.found

        def download_and_prepare(self):
            prepared.append(threading.get_ident())
            threading.Event().wait(0.1)
            done.set()

        def as_data_source(self, split, decoders):
            assert done.is_set()
            return [{}]

    decode = SimpleNamespace(SkipDecoding=object)
    fake = SimpleNamespace(builder=Builder, decode=decode)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    monkeypatch.setattr(tfds_lib, "_check_reachable", lambda builder: together.wait(30))
    settings = data_config(name="maps", dir=str(tmp_path))
    with ThreadPoolExecutor(2) as processes:
        opened = processes.map(lambda _: tfds_lib.tfds_source(settings, "train", "a"), range(2))
        assert [len(source) for source in opened] == [1, 1]
    assert len(prepared) == 1


def test_wrong_names_list_the_choices(monkeypatch):
    """An unknown name is an error with the nearest and all names, without importing TFDS."""
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="did you mean horse2zebra") as error:
        open_split(data_config(name="horses2zebras"), "train")
    assert all(name in str(error.value) for name in tfds_lib.NAMES)
    with pytest.raises(UserError, match="data.name: expected one of apple2orange, .*, got ''"):
        open_split(data_config(name=""), "train")


def test_without_tfds_says_so(monkeypatch):
    """A missing package is one line that names it."""
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="data.source=tfds requires tensorflow-datasets"):
        open_split(data_config(), "train")


def test_without_network_says_so(tmp_path, monkeypatch):
    """A missing connection is one line with the dataset, the folder and the host, at once."""
    pytest.importorskip("tensorflow_datasets")

    def urlopen(request, timeout):
        raise tfds_lib.urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(tfds_lib.urllib.request, "urlopen", urlopen)
    with pytest.raises(UserError, match="data.name=maps: not found in .* no connection to https"):
        open_split(data_config(name="maps", dir=str(tmp_path)), "train")


def test_home_is_expanded(tmp_path, monkeypatch):
    """`data.dir` may begin with ~, as the folders of other sources may."""
    asked = []

    def builder(name, data_dir):
        asked.append(data_dir)
        raise OSError("asked")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", SimpleNamespace(builder=builder))
    with pytest.raises(UserError, match="asked"):
        open_split(data_config(name="maps", dir="~/data"), "train")
    assert asked == [f"{tmp_path}/data"]


def test_damaged_records_are_named():
    """A record that cannot be decoded is a UserError with dataset, split and index."""
    source = tfds_lib.TFDSSource([{"image": b"not an image"}], "maps/trainA")
    with pytest.raises(UserError, match=r"image maps/trainA\[0\] cannot be read"):
        source[0]
