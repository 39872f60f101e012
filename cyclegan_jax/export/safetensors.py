"""Generators as safetensors: parameters and configuration, without the network's code."""

import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from cyclegan_jax import config as config_lib
from cyclegan_jax import default_config
from cyclegan_jax.build import build_networks
from cyclegan_jax.export.trained import FORMAT_VERSION, Trained, check_installed, requires
from cyclegan_jax.inference.translator import Network
from cyclegan_jax.utils.errors import UserError

_GENERATORS = {"a_to_b": "gen_ab", "b_to_a": "gen_ba"}


@requires("safetensors")
def export_safetensors(trained: Trained, path: Path) -> float:
    """Write a safetensors file; see `trained.Exporter`.

    Returns:
        The largest difference between parameters, infinity for another network.
    """
    path.write_bytes(to_safetensors(trained))
    config, loaded = load_safetensors(path)
    expected = config_lib.without_folders(trained.config), trained.network.generator
    if (config, loaded.generator) != expected:
        return np.inf
    differences = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), loaded.params, trained.network.params
    )
    return float(max(jax.tree.leaves(differences)))


def to_safetensors(trained: Trained) -> bytes:
    """Serialise parameters by dotted names, as "block_0.conv_0.kernel", and the metadata."""
    check_installed("safetensors", "safetensors")
    from safetensors.numpy import save

    flat = flatten_dict(trained.network.params, sep=".")
    tensors = {name: np.ascontiguousarray(x) for name, x in flat.items()}
    return save(tensors, trained.metadata())


def load_safetensors(path: str | os.PathLike) -> tuple[ConfigDict, Network]:
    """Load the configuration and the generator of a safetensors file.

    `translator.translate(network.generator, network.params, images)` computes the same bits as the
    run's own network. A file imports no code: a generator of the form `package.module:attribute`
    must have been imported before.

    Raises:
        UserError: The file cannot be read, or was not written by `to_safetensors`.
    """
    check_installed("safetensors", "safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise UserError(f"{path}: expected a safetensors file: {error}") from error
    if metadata.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path}: expected a file of this version of cyclegan_jax.export")
    try:
        name = _GENERATORS[metadata["direction"]]
        config = config_lib.from_dict(dict(json.loads(metadata["config"])), str(path))
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: expected a direction and a configuration") from error
    _check_config(config, len(tensors), path)
    if config.precision == "float64":
        jax.config.update("jax_enable_x64", True)
    generator = getattr(build_networks(_without_discriminator(config)), name)
    channels = {"gen_ab": config.data.channels_a, "gen_ba": config.data.channels_b}[name]
    _check_tensors(tensors, Network(generator, None, channels), path)
    params = unflatten_dict({name: jnp.asarray(x) for name, x in tensors.items()}, sep=".")
    return config, Network(generator, params, channels)


def _check_config(config: ConfigDict, tensors: int, path: str | os.PathLike) -> None:
    """Raise UserError for a generator of modules that are not imported, or endless to build."""
    for section in ("generator", "init"):
        for field, name in config[section].items():
            module, separator, _ = str(name).partition(":")
            if separator and module not in sys.modules:
                raise UserError(
                    f"{path}: {section}.{field}={name}: files may not import code; "
                    f"import {module} first"
                )
    if (config.generator.blocks or 0) > tensors:
        raise UserError(
            f"{path}: generator.blocks: expected parameters of each block, got "
            f"{config.generator.blocks} blocks and {tensors} tensors"
        )


def _without_discriminator(config: ConfigDict) -> ConfigDict:
    """Return the configuration with the default discriminator in place of the run's."""
    config = config.copy_and_resolve_references()
    config.discriminator = default_config.get_config().discriminator
    return config


def _check_tensors(
    tensors: dict[str, np.ndarray], network: Network, path: str | os.PathLike
) -> None:
    """Raise UserError unless names, shapes and types are those of the network's parameters."""
    generator = network.generator
    side = -(-generator.smallest // generator.granularity) * generator.granularity
    image = jax.ShapeDtypeStruct((1, side, side, network.channels), jnp.float32)
    expected = jax.eval_shape(generator.init, jax.random.key(0), image)["params"]
    for name, x in flatten_dict(expected, sep=".").items():
        got = tensors.get(name)
        if got is None or (got.shape, got.dtype) != (x.shape, x.dtype):
            found = "none" if got is None else f"{got.dtype} {list(got.shape)}"
            raise UserError(f"{path}: {name}: expected {x.dtype} {list(x.shape)}, got {found}")
    if extra := tensors.keys() - flatten_dict(expected, sep=".").keys():
        raise UserError(f"{path}: {min(extra)}: not a parameter of the network")
