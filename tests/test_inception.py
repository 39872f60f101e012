"""The Inception network, its weights and kept features; `torch_inception` is the oracle."""

import hashlib
import http.client
import io
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cyclegan_jax.evaluation import inception_weights  # noqa: E402
from cyclegan_jax.evaluation.features import Extractor, kept_features, prepare  # noqa: E402
from cyclegan_jax.evaluation.inception_weights import (  # noqa: E402
    FILE_NAME,
    SHA256,
    cache_folder,
    fetch_weights,
    load_weights,
)
from cyclegan_jax.utils.errors import UserError  # noqa: E402
from tests import torch_inception  # noqa: E402

torch.set_num_threads(1)


def images(*shapes: tuple[int, int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, shape, np.uint8) for shape in shapes]


def as_torch(image: np.ndarray) -> Any:
    """What `ToTensor` gives: [1, C, H, W] in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def test_features_are_those_of_pytorch(tmp_path: Path) -> None:
    """Random weights in the published file format; a small image and a large grey one.

    The first comes again, alone in the second batch: batches are filled up and cut right.
    """
    network = torch_inception.build(seed=0)
    path = tmp_path / FILE_NAME
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    shown = images((41, 63, 3), (333, 500, 1))
    extractor = Extractor(path, batch_size=2)
    ours = list(extractor(iter([*shown, shown[0]])))
    with torch.no_grad():
        theirs = [network(as_torch(p).expand(1, 3, *p.shape[:2])).numpy() for p in shown]
    np.testing.assert_allclose(ours[0], np.concatenate(theirs), rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours[1], theirs[0], rtol=0, atol=1e-4)
    # Signals are alive: most features are there and as large as they are in practice.
    assert np.mean(theirs[0] > 0) > 0.5 and 0.3 < np.mean(theirs[0]) < 3
    assert np.abs(theirs[0] - theirs[1]).max() > 0.05
    assert extractor.checksum == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("shape", [(1, 1), (299, 299), (7, 300), (2000, 33), (256, 256)])
def test_images_are_resized_as_by_pytorch(shape: tuple[int, int]) -> None:
    """Bilinear, pixels' centres aligned, no filter, in [0, 1]; then to [-1, 1]."""
    (image,) = images((*shape, 3))
    resized = torch.nn.functional.interpolate(
        as_torch(image), size=(299, 299), mode="bilinear", align_corners=False
    )
    expected = (2 * resized - 1)[0].permute(1, 2, 0).numpy()
    prepared = prepare(image)
    assert prepared.dtype == np.float32
    np.testing.assert_allclose(prepared, expected, rtol=0, atol=1e-6)


def test_grey_alpha_and_16_bits() -> None:
    """Grey counts as three equal channels, alpha does not count, 16 bits as their 8."""
    (image,) = images((20, 30, 4))
    colours = prepare(image[..., :3])
    np.testing.assert_array_equal(prepare(image), colours)
    np.testing.assert_array_equal(prepare(image[..., :3].astype(np.uint16) * 257), colours)
    grey = prepare(image[..., :1].repeat(3, axis=-1))
    np.testing.assert_array_equal(prepare(image[..., :1]), grey)
    np.testing.assert_array_equal(prepare(image[..., :2]), grey)


@pytest.fixture
def tensors(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """What `load_weights` finds in a file; of the right names and shapes unless changed."""
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in torch_inception.Inception().state_dict().items()}
    found = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
    monkeypatch.setattr(inception_weights, "read_tensors", lambda path: found)
    return found


def test_wrong_tensors_are_named(tensors: dict[str, np.ndarray]) -> None:
    """Missing, misshapen and foreign ones, with both shapes."""
    del tensors["Mixed_5b.branch1x1.bn.running_var"]
    tensors["Mixed_6a.branch3x3.conv.weight"] = np.zeros((384, 288, 3, 2))
    tensors["AuxLogits.conv0.conv.weight"] = np.zeros((128, 768, 1, 1))
    with pytest.raises(UserError) as error:
        load_weights(Path("x.pth"))
    message = str(error.value)
    assert "\n" not in message and message.startswith("x.pth: not the Inception weights of")
    assert "Mixed_5b.branch1x1.bn.running_var is missing" in message
    assert (
        "Mixed_6a.branch3x3.conv.weight is [384, 288, 3, 2], expected [384, 288, 3, 3]" in message
    )
    assert "AuxLogits.conv0.conv.weight is not part of it" in message


def test_the_inception_of_torchvision_is_refused(tensors: dict[str, np.ndarray]) -> None:
    """Its other shapes fit, and its figures would look right."""
    tensors["fc.weight"], tensors["fc.bias"] = np.zeros((1000, 2048)), np.zeros(1000)
    with pytest.raises(UserError, match=r"fc.weight is \[1000, 2048\], expected \[1008, 2048\]"):
        load_weights(Path("x.pth"))


def test_a_long_list_is_cut(tensors: dict[str, np.ndarray]) -> None:
    """One line names five tensors and counts the others."""
    for name in list(tensors)[:30]:
        del tensors[name]
    with pytest.raises(UserError, match=r"Conv2d_1a_3x3.conv.weight is missing; .*; and 20 more$"):
        load_weights(Path("x.pth"))


def test_weights_that_are_no_numbers_are_named(tensors: dict[str, np.ndarray]) -> None:
    """A negative variance has no root."""
    tensors["Mixed_7c.branch_pool.bn.running_var"] = np.full(192, -1, np.float32)
    with pytest.raises(UserError, match="Mixed_7c.branch_pool holds values that are not finite"):
        load_weights(Path("x.pth"))


class Server:
    """Stands for the address of the weights: answers with bytes or an error, and counts."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.calls = 0

    def urlopen(self, url: str, timeout: float) -> Any:
        """In place of urllib's."""
        assert url.startswith("https://") and url.endswith(f"/{FILE_NAME}")
        self.calls += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """One that answers with 3 MB, which are the published file."""
    content = bytes(range(250)) * 12000
    monkeypatch.setattr(inception_weights, "SHA256", hashlib.sha256(content).hexdigest())
    made = Server(io.BytesIO(content))
    monkeypatch.setattr(urllib.request, "urlopen", made.urlopen)
    return made


def test_weights_are_fetched_once(tmp_path: Path, server: Server) -> None:
    """Into a folder that is made, under their name, with nothing left beside them."""
    folder = tmp_path / "new" / "cache"
    path = fetch_weights(folder)
    assert path == folder / FILE_NAME
    assert hashlib.sha256(path.read_bytes()).hexdigest() == inception_weights.SHA256
    assert list(folder.iterdir()) == [path]
    assert fetch_weights(folder) == path and server.calls == 1


def test_a_file_with_another_checksum_is_refused(tmp_path: Path, server: Server) -> None:
    """Neither kept when fetched nor used when it lies in the folder."""
    server.answer = io.BytesIO(b"a page that says no")
    with pytest.raises(UserError, match="gave another file than the published one"):
        fetch_weights(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / FILE_NAME).write_bytes(b"half of the file")
    with pytest.raises(UserError, match=f"{FILE_NAME}: not the published file.*delete it"):
        fetch_weights(tmp_path)
    assert server.calls == 1


class Cut(io.BytesIO):
    """An answer that ends before it is whole."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Fails as urllib does."""
        raise http.client.IncompleteRead(b"", 7)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (urllib.error.URLError("Name or service not known"), "Name or service not known"),
        (TimeoutError(), "(TimeoutError)"),
        (Cut(), "IncompleteRead"),
    ],
)
def test_no_connection_says_where_the_file_belongs(
    tmp_path: Path, server: Server, answer: Any, reason: str
) -> None:
    """One line with the address, the reason and the place; nothing is left behind."""
    server.answer = answer
    with pytest.raises(UserError) as error:
        fetch_weights(tmp_path)
    message = str(error.value)
    assert reason in message and "\n" not in message
    assert inception_weights.URL in message and message.endswith(str(tmp_path / FILE_NAME))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, server: Server) -> None:
    """A file lies where the folder should be."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be fetched"):
        fetch_weights(tmp_path / "file" / "cache")


def test_the_published_name_has_the_checksum() -> None:
    """PyTorch's convention: the first eight digits stand before the suffix."""
    assert Path(FILE_NAME).stem.rsplit("-", 1)[-1] == SHA256[:8] and len(SHA256) == 64


def test_the_cache_is_in_the_users_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_CACHE_HOME, or else ~/.cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/cyclegan_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder() == Path("/home/me/.cache/cyclegan_jax")


class Means:
    """In place of an extractor: every feature is the image's mean; counts its calls."""

    def __init__(self, checksum: str = "0") -> None:
        self.checksum = checksum
        self.calls = 0

    def __call__(self, shown: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """One image at a time."""
        self.calls += 1
        for image in shown:
            yield np.full((1, 2048), image.mean(), np.float32)


def test_features_are_computed_once(tmp_path: Path) -> None:
    """The same images and weights are not asked for again; nothing else is left behind."""
    shown = images((5, 6, 3), (8, 7, 3))
    extractor: Any = Means()
    first = kept_features(extractor, shown, tmp_path / "cache")
    assert first.dtype == np.float32
    np.testing.assert_allclose(first[:, 7], [p.mean() for p in shown], rtol=1e-6)
    again = kept_features(extractor, [p.copy() for p in shown], tmp_path / "cache")
    np.testing.assert_array_equal(first, again)
    assert extractor.calls == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_other_images_or_weights_are_computed_anew(tmp_path: Path) -> None:
    """A changed pixel, another order, shape or type, an image less, other weights."""
    one, other = images((4, 6, 3), (4, 6, 3))
    changed = one.copy()
    changed[3, 5, 2] ^= 1
    sets = [
        [one, other],
        [other, one],
        [changed, other],
        [one],
        [one.reshape(6, 4, 3), other],
        [one.astype(np.uint16), other],
    ]
    for shown in sets:
        extractor: Any = Means()
        kept_features(extractor, shown, tmp_path)
        assert extractor.calls == 1
    extractor = Means("1")
    kept_features(extractor, sets[0], tmp_path)
    assert extractor.calls == 1


def test_damaged_features_are_computed_anew(tmp_path: Path) -> None:
    """Half a file is replaced by a whole one."""
    shown = images((5, 6, 3), (5, 6, 3))
    extractor: Any = Means()
    first = kept_features(extractor, shown, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:2000])
    np.testing.assert_array_equal(kept_features(extractor, shown, tmp_path), first)
    assert extractor.calls == 2
    kept_features(extractor, shown, tmp_path)
    assert extractor.calls == 2


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file lies where the folder should be."""
    extractor: Any = Means()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="features cannot be kept there"):
        kept_features(extractor, images((5, 6, 3)), tmp_path / "file")
