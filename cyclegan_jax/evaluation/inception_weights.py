"""The published weights of the Inception network: downloaded once, verified, loaded."""

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
from cyclegan_jax.utils.atomic import atomic_path
from cyclegan_jax.utils.errors import UserError

URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
FILE_NAME = URL.rsplit("/", 1)[-1]

_EPSILON = 1e-3  # of batch norm
_CLASSES = 1008
_TIMEOUT = 30.0  # seconds
_CHUNK = 1 << 20


def cache_folder() -> Path:
    """Return the folder of downloaded weights and cached features, in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "cyclegan_jax"


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits; UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def fetch_weights(folder: Path) -> Path:
    """Return the file of the published weights in a folder, downloading it (95 MB) if missing.

    Raises:
        UserError: The file cannot be downloaded or written, or has another checksum.
    """
    path = folder / FILE_NAME
    if path.exists():
        if checksum(path) != SHA256:
            raise UserError(
                f"{path}: expected the published file with SHA-256 {SHA256}, got another; "
                "delete it to download it again"
            )
        return path
    logging.info("Downloading the Inception weights (95 MB) from %s", URL)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            digest = _download(temporary)
            if digest != SHA256:
                raise UserError(
                    f"{URL}: expected the file with SHA-256 {SHA256}, got {digest}; get the file "
                    f"elsewhere and put it at {path}"
                )
    except (OSError, http.client.HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise UserError(
            f"the Inception weights cannot be downloaded from {URL} ({reason}); "
            f"get the file elsewhere and put it at {path}"
        ) from error
    return path


def _download(path: Path) -> str:
    """Download the weights to a file and return its SHA-256."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(URL, timeout=_TIMEOUT) as response, path.open("wb") as file:
        while chunk := response.read(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def load_weights(path: Path) -> dict[str, Any]:
    """Load the parameters of `Inception` from a file in the format of the published one.

    Args:
        path: File of a PyTorch state dict. The classifier is checked but not returned.

    Returns:
        Float32 arrays, with batch norms folded into kernels and biases.

    Raises:
        UserError: The file cannot be read, tensors are missing, unknown or of wrong shapes, or
            values are not finite.
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
            raise UserError(f"{path}: expected finite values, got others in {name}")
        params |= {(*unit, part): values.astype(np.float32) for part, values in folded.items()}
    return traverse_util.unflatten_dict(params)


@functools.cache
def _unit_shapes() -> dict[tuple[str, ...], tuple[int, ...]]:
    """Return the kernel shape [height, width, in, out] of each unit by its path."""
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
    # The Inception of torchvision differs here, and computes other features.
    expected |= {"fc.weight": (_CLASSES, FEATURES), "fc.bias": (_CLASSES,)}
    shapes = {
        name: tensor.shape
        for name, tensor in tensors.items()
        if not name.endswith(".num_batches_tracked")
    }
    wrong = [f"{name} is missing" for name in expected if name not in shapes]
    wrong += [f"{name} is unknown" for name in shapes if name not in expected]
    wrong += [
        f"{name} is {list(shapes[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if shapes.get(name, shape) != shape
    ]
    if wrong:
        listed = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if wrong[5:] else "")
        raise UserError(f"{path}: expected the Inception weights of {FILE_NAME}: {listed}")
