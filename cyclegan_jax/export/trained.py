"""A trained generator, and what exporters share."""

import dataclasses
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cyclegan_jax import config as config_lib
from cyclegan_jax.inference.translator import Network, translate
from cyclegan_jax.utils.errors import UserError

FORMAT_VERSION = "1"


class Trained(NamedTuple):
    """A generator and its origin.

    Attributes:
        network: The generator as it was trained.
        config: The configuration of the run.
        direction: One of `translator.DIRECTIONS`.
        step: The step of the checkpoint.
    """

    network: Network
    config: ConfigDict
    direction: str
    step: int

    def metadata(self) -> dict[str, str]:
        """Return the texts to store in a file, by name, without folders of this machine."""
        return {
            "format_version": FORMAT_VERSION,
            "direction": self.direction,
            "step": str(self.step),
            "config": json.dumps(config_lib.without_folders(self.config).to_dict()),
        }


# Writes the file at a path, loads it and returns the largest difference between its results and the
# network's, in [-1, 1].
Exporter = Callable[[Trained, Path], float]
E = TypeVar("E", bound=Exporter)


def requires(*libraries: str) -> Callable[[E], E]:
    """Declare the libraries of an exporter, which are checked before a checkpoint is loaded."""

    def declare(exporter: E) -> E:
        exporter.requires = libraries  # type: ignore[attr-defined]
        return exporter

    return declare


def check_installed(library: str, purpose: str) -> None:
    """Raise UserError unless a library can be imported."""
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise UserError(f"{purpose} needs {library}: pip install {library}") from error


def to_float32(network: Network) -> Network:
    """Return the network computing in float32, without rematerialisation."""
    generator = network.generator
    fields = {field.name for field in dataclasses.fields(generator)}
    changes: dict[str, Any] = {}
    if "config" in fields:
        changes["config"] = dataclasses.replace(generator.config, dtype=jnp.float32)
    if "remat" in fields:
        changes["remat"] = False
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), network.params)
    return Network(generator.clone(**changes), params, network.channels)


def largest_difference(network: Network, run: Callable[[Any], Any]) -> float:
    """Compare a loaded file with the network on random images of two sizes.

    Args:
        network: The network in float32.
        run: The file's network: float32 [B, H, W, C] to [B, H, W, C'].
    """
    largest = 0.0
    for images in _examples(network):
        # By default GPUs round the factors of products.
        with jax.default_matmul_precision("highest"):
            expected = translate(network.generator, network.params, images)
            largest = max(largest, float(np.abs(np.asarray(run(images)) - expected).max()))
    return largest


def _examples(network: Network) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    unit = network.generator.granularity
    side = -(-max(64, network.generator.smallest) // unit) * unit
    for batch, height, width in ((2, side, side + unit), (1, side + unit, side)):
        shape = (batch, height, width, network.channels)
        yield rng.uniform(-1, 1, shape).astype(np.float32)
