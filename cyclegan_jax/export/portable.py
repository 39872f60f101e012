"""Generators as files that JAX programs take: StableHLO of `jax.export`, and safetensors."""

import importlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from cyclegan_jax import config as config_lib
from cyclegan_jax import ops
from cyclegan_jax.build import build_networks
from cyclegan_jax.inference.translator import Network
from cyclegan_jax.utils.errors import UserError

Array = jax.Array

VERSION = "1"  # of the metadata
_GENERATORS = {"a_to_b": "gen_ab", "b_to_a": "gen_ba"}


class Trained(NamedTuple):
    """A generator and where it is from.

    Attributes:
        network: as it was trained.
        config: of the run.
        direction: one of `inference.DIRECTIONS`.
        step: of the checkpoint.
    """

    network: Network
    config: ConfigDict
    direction: str
    step: int

    def about(self) -> dict[str, str]:
        """What a file says of it, by name."""
        return {
            "format_version": VERSION,
            "direction": self.direction,
            "step": str(self.step),
            "config": json.dumps(self.config.to_dict()),
        }


def check_installed(name: str, purpose: str) -> None:
    """Raises UserError where a library cannot be imported."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{purpose} needs {name}: pip install {name}") from error


def to_float32(network: Network) -> Network:
    """The same computed in float32, whatever it was trained in, and with nothing for gradients."""
    config = replace(network.generator.config, dtype=jnp.float32)
    plain = network.generator.clone(config=config, remat=False)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), network.params)
    return Network(plain, params, network.channels)


def to_stablehlo(network: Network) -> bytes:
    """A generator in float32 as `jax.export` serialises it, for any size that it takes.

    It holds the network in both forms of its convolutions, each for the platform that runs it
    fast, and the parameters once.
    """
    check_installed("flatbuffers", "StableHLO")
    from jax import export

    generator, params, channels = to_float32(network)
    unit = generator.granularity
    least = -(-generator.smallest // unit)
    batch, height, width = export.symbolic_shape(
        f"batch, {unit}*h, {unit}*w", constraints=[f"h >= {least}", f"w >= {least}"]
    )

    def formed(form: ops.Form) -> Callable[[Any, Array], Array]:
        def apply(params: Any, images: Array) -> Array:
            with ops.default_form(form):
                return generator.apply({"params": params}, images)

        return apply

    def translated(images: Array) -> Array:
        forms = {"cpu": formed("cpu"), "default": formed("direct")}
        return jax.lax.platform_dependent(params, images, **forms)

    images = jax.ShapeDtypeStruct((batch, height, width, channels), jnp.float32)
    exported = export.export(jax.jit(translated), platforms=["cpu", "cuda"])(images)
    return bytes(exported.serialize())


def load_stablehlo(path: str | os.PathLike) -> Callable[[Array], Array]:
    """The network in a StableHLO file, for CPUs and for NVIDIA GPUs.

    Returns:
        A function of float32 [B, H, W, C] in [-1, 1] that gives [B, H, W, C'] in (-1, 1). It is
        compiled for every new shape, and refuses heights and widths that the network does not take.

    Raises:
        UserError: the file cannot be read, or is none.
    """
    check_installed("flatbuffers", "StableHLO")
    from jax import export

    try:
        exported = export.deserialize(bytearray(Path(path).read_bytes()))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # of many kinds, for the file may hold anything
        raise UserError(f"{path}: not a StableHLO file of jax.export") from error
    return jax.jit(exported.call)


def to_safetensors(trained: Trained) -> bytes:
    """The parameters by dotted names, as "block_0.conv_0.kernel", and `about` as metadata."""
    check_installed("safetensors", "safetensors")
    from safetensors.numpy import save

    flat = flatten_dict(trained.network.params, sep=".")
    tensors = {name: np.ascontiguousarray(x) for name, x in flat.items()}
    return save(tensors, trained.about())


def load_safetensors(path: str | os.PathLike) -> tuple[ConfigDict, Network]:
    """The configuration and the generator in a safetensors file.

    `inference.translate(network.generator, network.params, images)` gives the bits that the
    run's own network gives.

    Raises:
        UserError: the file cannot be read, or is none that `to_safetensors` made.
    """
    check_installed("safetensors", "safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file: {error}") from error
    if about.get("format_version") != VERSION:
        raise UserError(f"{path}: not made by cyclegan_jax.export, or by another version of it")
    config = config_lib.from_dict(json.loads(about["config"]), str(path))
    if config.precision == "float64":
        jax.config.update("jax_enable_x64", True)
    params = unflatten_dict({name: jnp.asarray(x) for name, x in tensors.items()}, sep=".")
    name = _GENERATORS[about["direction"]]
    channels = {"gen_ab": config.data.channels_a, "gen_ba": config.data.channels_b}[name]
    return config, Network(getattr(build_networks(config), name), params, channels)
