"""The Inception network, its weights and cached features; `torch_inception` is the oracle."""

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
from cyclegan_jax.evaluation.features import Extractor, Features, cached_features, prepare  # noqa: E402
from cyclegan_jax.evaluation.image_sets import ImageSet  # noqa: E402
from cyclegan_jax.evaluation.inception_weights import (  # noqa: E402
    FILE_NAME,
    SHA256,
    cache_folder,
    fetch_weights,
    load_weights,
)
from cyclegan_jax.utils.errors import UserError  # noqa: E402
from tests.evaluation import torch_inception  # noqa: E402

torch.set_num_threads(1)


def images(*shapes: tuple[int, int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, shape, np.uint8) for shape in shapes]


def as_torch(image: np.ndarray) -> Any:
    """Convert to [1, C, H, W] in [0, 1] as `ToTensor` does."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def test_features_are_those_of_pytorch(tmp_path: Path) -> None:
    """Random weights in the published file format; a small image and a large grey one.

    The first image is repeated alone in the second batch, which is padded.
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
    # The comparison is not one of zeros: most features are as large as in practice.
    assert np.mean(theirs[0] > 0) > 0.5 and 0.3 < np.mean(theirs[0]) < 3
    assert np.abs(theirs[0] - theirs[1]).max() > 0.05
    assert extractor.checksum == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("shape", [(1, 1), (299, 299), (7, 300), (2000, 33), (256, 256)])
def test_images_are_resized_as_by_pytorch(shape: tuple[int, int]) -> None:
    """Bilinear with aligned pixel centres, without antialiasing; scaled to [-1, 1]."""
    (image,) = images((*shape, 3))
    resized = torch.nn.functional.interpolate(
        as_torch(image), size=(299, 299), mode="bilinear", align_corners=False
    )
    expected = (2 * resized - 1)[0].permute(1, 2, 0).numpy()
    prepared = prepare(image)
    assert prepared.dtype == np.float32
    np.testing.assert_allclose(prepared, expected, rtol=0, atol=1e-6)


def test_grey_alpha_and_16_bits() -> None:
    """Grey counts as three equal channels, alpha is dropped, 16 bits are reduced to 8."""
    (image,) = images((20, 30, 4))
    colours = prepare(image[..., :3])
    np.testing.assert_array_equal(prepare(image), colours)
    np.testing.assert_array_equal(prepare(image[..., :3].astype(np.uint16) * 257), colours)
    grey = prepare(image[..., :1].repeat(3, axis=-1))
    np.testing.assert_array_equal(prepare(image[..., :1]), grey)
    np.testing.assert_array_equal(prepare(image[..., :2]), grey)


@pytest.fixture
def tensors(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Tensors that `load_weights` reads, with correct names and shapes until changed."""
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in torch_inception.Inception().state_dict().items()}
    values = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
    monkeypatch.setattr(inception_weights, "read_tensors", lambda path: values)
    return values


def test_wrong_tensors_are_named(tensors: dict[str, np.ndarray]) -> None:
    """The error names missing, wrongly shaped and unknown tensors."""
    del tensors["Mixed_5b.branch1x1.bn.running_var"]
    tensors["Mixed_6a.branch3x3.conv.weight"] = np.zeros((384, 288, 3, 2))
    tensors["AuxLogits.conv0.conv.weight"] = np.zeros((128, 768, 1, 1))
    with pytest.raises(UserError) as error:
        load_weights(Path("x.pth"))
    message = str(error.value)
    assert "\n" not in message and message.startswith("x.pth: expected the Inception weights of")
    assert "Mixed_5b.branch1x1.bn.running_var is missing" in message
    assert (
        "Mixed_6a.branch3x3.conv.weight is [384, 288, 3, 2] instead of [384, 288, 3, 3]" in message
    )
    assert "AuxLogits.conv0.conv.weight is unknown" in message


def test_the_inception_of_torchvision_is_refused(tensors: dict[str, np.ndarray]) -> None:
    """Its other shapes are the same, and its distances would look plausible."""
    tensors["fc.weight"], tensors["fc.bias"] = np.zeros((1000, 2048)), np.zeros(1000)
    with pytest.raises(UserError, match=r"fc.weight is \[1000, 2048\] instead of \[1008, 2048\]"):
        load_weights(Path("x.pth"))


def test_long_lists_are_shortened(tensors: dict[str, np.ndarray]) -> None:
    """The error names five tensors and counts the rest."""
    for name in list(tensors)[:30]:
        del tensors[name]
    with pytest.raises(UserError, match=r"Conv2d_1a_3x3.conv.weight is missing; .*; and 20 more$"):
        load_weights(Path("x.pth"))


def test_weights_that_are_not_finite(tensors: dict[str, np.ndarray]) -> None:
    """A negative variance has no square root."""
    tensors["Mixed_7c.branch_pool.bn.running_var"] = np.full(192, -1, np.float32)
    with pytest.raises(
        UserError, match="expected finite values, got others in Mixed_7c.branch_pool"
    ):
        load_weights(Path("x.pth"))


class Server:
    """Replacement of urllib that responds with bytes or an error and counts requests."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self.calls = 0

    def urlopen(self, url: str, timeout: float) -> Any:
        """Replace urllib's function."""
        assert url.startswith("https://") and url.endswith(f"/{FILE_NAME}")
        self.calls += 1
        if isinstance(self.response, Exception):
            raise self.response
        return self.response


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """Server whose response, 3 MB, has the published checksum."""
    content = bytes(range(250)) * 12000
    monkeypatch.setattr(inception_weights, "SHA256", hashlib.sha256(content).hexdigest())
    server = Server(io.BytesIO(content))
    monkeypatch.setattr(urllib.request, "urlopen", server.urlopen)
    return server


def test_weights_are_downloaded_once(tmp_path: Path, server: Server) -> None:
    """The folder is created and contains nothing but the file."""
    folder = tmp_path / "new" / "cache"
    path = fetch_weights(folder)
    assert path == folder / FILE_NAME
    assert hashlib.sha256(path.read_bytes()).hexdigest() == inception_weights.SHA256
    assert list(folder.iterdir()) == [path]
    assert fetch_weights(folder) == path and server.calls == 1


def test_another_checksum_is_refused(tmp_path: Path, server: Server) -> None:
    """Such a file is neither kept after a download nor used from the folder."""
    server.response = io.BytesIO(b"an error page")
    with pytest.raises(
        UserError, match=f"expected the file with SHA-256 {inception_weights.SHA256}"
    ):
        fetch_weights(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / FILE_NAME).write_bytes(b"half of the file")
    with pytest.raises(UserError, match=f"{FILE_NAME}: expected the published file.*delete it"):
        fetch_weights(tmp_path)
    assert server.calls == 1


class Truncated(io.BytesIO):
    """A response that ends early."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Fail as urllib does."""
        raise http.client.IncompleteRead(b"", 7)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (urllib.error.URLError("Name or service not known"), "Name or service not known"),
        (TimeoutError(), "(TimeoutError)"),
        (Truncated(), "IncompleteRead"),
    ],
)
def test_failed_downloads(tmp_path: Path, server: Server, response: Any, reason: str) -> None:
    """The error is one line with URL, reason and the file's path; nothing is left behind."""
    server.response = response
    with pytest.raises(UserError) as error:
        fetch_weights(tmp_path)
    message = str(error.value)
    assert reason in message and "\n" not in message
    assert inception_weights.URL in message and message.endswith(str(tmp_path / FILE_NAME))
    assert not list(tmp_path.iterdir())


def test_cache_folder_that_cannot_be_created(tmp_path: Path, server: Server) -> None:
    """A file has the name of the folder."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be downloaded"):
        fetch_weights(tmp_path / "file" / "cache")


def test_published_name_contains_the_checksum() -> None:
    """By PyTorch's convention the name ends in the first eight digits."""
    assert Path(FILE_NAME).stem.rsplit("-", 1)[-1] == SHA256[:8] and len(SHA256) == 64


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is in XDG_CACHE_HOME, or else in ~/.cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/cyclegan_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder() == Path("/home/me/.cache/cyclegan_jax")


class Means:
    """Extractor whose features all are the image's mean, and which counts its calls."""

    def __init__(self, checksum: str = "0") -> None:
        self.checksum = checksum
        self.calls = 0

    def __call__(self, shown: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the features of one image at a time."""
        self.calls += 1
        for image in shown:
            yield np.full((1, 2048), image.mean(), np.float32)


def test_features_are_computed_once(tmp_path: Path) -> None:
    """Features of the same images and weights are read from the only file in the folder."""
    shown = images((5, 6, 3), (8, 7, 3))
    extractor: Any = Means()
    first = cached_features(extractor, shown, tmp_path / "cache")
    assert first.dtype == np.float32
    np.testing.assert_allclose(first[:, 7], [p.mean() for p in shown], rtol=1e-6)
    again = cached_features(extractor, [p.copy() for p in shown], tmp_path / "cache")
    np.testing.assert_array_equal(first, again)
    assert extractor.calls == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_features_of_other_images_or_weights(tmp_path: Path) -> None:
    """A changed pixel, another order, shape or type, a missing image, other weights."""
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
        cached_features(extractor, shown, tmp_path)
        assert extractor.calls == 1
    extractor = Means("1")
    cached_features(extractor, sets[0], tmp_path)
    assert extractor.calls == 1


def test_damaged_features_are_recomputed(tmp_path: Path) -> None:
    """A truncated file is replaced."""
    shown = images((5, 6, 3), (5, 6, 3))
    extractor: Any = Means()
    first = cached_features(extractor, shown, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:2000])
    np.testing.assert_array_equal(cached_features(extractor, shown, tmp_path), first)
    assert extractor.calls == 2
    cached_features(extractor, shown, tmp_path)
    assert extractor.calls == 2


def test_feature_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A file has the name of the folder."""
    extractor: Any = Means()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="features cannot be cached there"):
        cached_features(extractor, images((5, 6, 3)), tmp_path / "file")


def test_features_of_a_set_are_shared(tmp_path: Path) -> None:
    """Each set is computed once, as long as it exists; only test sets are written to disk."""
    extractor = Means()
    features = Features(extractor, tmp_path)
    real = ImageSet(images((5, 6, 3), (8, 7, 3)), ["0", "1"], ["0", "1"])
    fakes = real.with_images(images((5, 6, 3)))
    for _ in range(2):
        np.testing.assert_allclose(features.of_test_set(real)[1], real.images[1].mean(), rtol=1e-6)
        np.testing.assert_allclose(features.of(fakes)[0], fakes.images[0].mean(), rtol=1e-6)
    assert extractor.calls == 2 and len(list(tmp_path.iterdir())) == 1
    assert len(features.of(real.with_images(fakes.images))) == 1 and extractor.calls == 3
