"""The published weights of the Inception network: fetched once, checked, read."""

import functools
import hashlib
import http.client
import os
import urllib.request
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import traverse_util

from cyclegan_jax.evaluation.inception import FEATURES, SIDE, Inception
from cyclegan_jax.torch_weights.files import read_tensors
from cyclegan_jax.utils.errors import UserError

URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
FILE_NAME = URL.rsplit("/", 1)[-1]

_EPSILON = 1e-3  # of the norms
_CLASSES = 1008
_SECONDS = 30.0  # without an answer
_CHUNK = 1 << 20


def cache_folder() -> Path:
    """Where fetched weights and features are kept: `cyclegan_jax` in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "cyclegan_jax"


def checksum(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits; UserError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def fetch_weights(folder: Path) -> Path:
    """The file of the published weights in a folder, downloaded (95 MB) unless it is there.

    Raises:
        UserError: it cannot be downloaded or written, or is another file than the published one.
    """
    path = folder / FILE_NAME
    if path.exists():
        if checksum(path) != SHA256:
            raise UserError(
                f"{path}: not the published file, its SHA-256 should be {SHA256}; "
                "delete it, and it is fetched again"
            )
        return path
    temporary = folder / f".{FILE_NAME}.{os.getpid()}.tmp"
    logging.info("fetching the Inception weights (95 MB) from %s", URL)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            found = _download(temporary)
            if found != SHA256:
                raise UserError(
                    f"{URL} gave another file than the published one (SHA-256 {found}, expected "
                    f"{SHA256}); get it elsewhere and put it at {path}"
                )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, http.client.HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise UserError(
            f"the Inception weights cannot be fetched from {URL} ({reason}); "
            f"get the file elsewhere and put it at {path}"
        ) from error
    return path


def _download(path: Path) -> str:
    """Writes what the address gives to a file; its SHA-256."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(URL, timeout=_SECONDS) as answer, path.open("wb") as file:
        while chunk := answer.read(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def load_weights(path: Path) -> dict[str, Any]:
    """The parameters of `Inception` from a file in the format of the published one.

    Args:
        path: a PyTorch state dict with convolutions and norms; the classifier is checked, then
            left out.

    Returns:
        Float32 arrays, every norm folded into the kernel and the offset of its convolution.

    Raises:
        UserError: the file cannot be read, tensors are missing, too many or of other shapes, or
            their values are not finite.
    """
    tensors = read_tensors(path)
    units = _unit_shapes()
    _check_shapes(path, tensors, units)
    params: dict[tuple[str, ...], np.ndarray] = {}
    for unit in units:
        name = ".".join(unit)
        kernel = tensors[f"{name}.conv.weight"].astype(np.float64)
        scale, offset, mean, variance = (
            tensors[f"{name}.bn.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        with np.errstate(invalid="ignore"):
            scale = scale / np.sqrt(variance + _EPSILON)
        folded = {"kernel": kernel.transpose(2, 3, 1, 0) * scale, "bias": offset - mean * scale}
        if not all(np.isfinite(values).all() for values in folded.values()):
            raise UserError(f"{path}: {name} holds values that are not finite")
        params |= {(*unit, part): values.astype(np.float32) for part, values in folded.items()}
    return traverse_util.unflatten_dict(params)


@functools.cache
def _unit_shapes() -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of every convolution's kernel, [height, width, in, out], by the unit's path."""
    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    params = jax.eval_shape(Inception().init, jax.random.key(0), image)["params"]
    flat = traverse_util.flatten_dict(params)
    return {path[:-1]: leaf.shape for path, leaf in flat.items() if path[-1] == "kernel"}


def _check_shapes(
    path: Path, tensors: dict[str, np.ndarray], units: dict[tuple[str, ...], tuple[int, ...]]
) -> None:
    expected: dict[str, tuple[int, ...]] = {}
    for unit, (height, width, channels_in, channels_out) in units.items():
        name = ".".join(unit)
        expected[f"{name}.conv.weight"] = (channels_out, channels_in, height, width)
        for part in ("weight", "bias", "running_mean", "running_var"):
            expected[f"{name}.bn.{part}"] = (channels_out,)
    # ImageNet's own Inception of torchvision differs here, and in the features it gives.
    expected |= {"fc.weight": (_CLASSES, FEATURES), "fc.bias": (_CLASSES,)}
    found = {
        name: tensor.shape
        for name, tensor in tensors.items()
        if not name.endswith(".num_batches_tracked")
    }
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} is not part of it" for name in found if name not in expected]
    wrong += [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    if wrong:
        listed = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if wrong[5:] else "")
        raise UserError(f"{path}: not the Inception weights of {FILE_NAME}: {listed}")
