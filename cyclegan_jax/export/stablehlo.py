"""Generators as StableHLO, which JAX programs load without this package."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cyclegan_jax import ops
from cyclegan_jax.export.trained import (
    Trained,
    check_installed,
    largest_difference,
    requires,
    to_float32,
)
from cyclegan_jax.inference.translator import Network
from cyclegan_jax.utils.errors import UserError

Array = jax.Array


@requires("flatbuffers")
def export_stablehlo(trained: Trained, path: Path) -> float:
    """Write a StableHLO file; see `trained.Exporter`."""
    path.write_bytes(to_stablehlo(trained.network))
    return largest_difference(to_float32(trained.network), load_stablehlo(path))


def to_stablehlo(network: Network) -> bytes:
    """Serialise a generator in float32 with `jax.export`, for all sizes that it takes.

    The module holds the network with the convolutions for CPUs and those for other platforms, and
    the parameters once.
    """
    check_installed("flatbuffers", "StableHLO")
    from jax import export

    generator, params, channels = to_float32(network)
    unit = generator.granularity
    least = -(-generator.smallest // unit)
    batch, height, width = export.symbolic_shape(
        f"batch, {unit}*h, {unit}*w", constraints=[f"h >= {least}", f"w >= {least}"]
    )

    def with_form(form: ops.Form) -> Callable[[Any, Array], Array]:
        def apply(params: Any, images: Array) -> Array:
            with ops.default_form(form):
                return generator.apply({"params": params}, images)

        return apply

    def apply(images: Array) -> Array:
        forms = {"cpu": with_form("cpu"), "default": with_form("direct")}
        return jax.lax.platform_dependent(params, images, **forms)

    images = jax.ShapeDtypeStruct((batch, height, width, channels), jnp.float32)
    with _source_files_without_folders():
        exported = export.export(jax.jit(apply), platforms=["cpu", "cuda"])(images)
    return bytes(exported.serialize())


@contextlib.contextmanager
def _source_files_without_folders() -> Iterator[None]:
    """Context in which the source locations in modules do not name this machine's folders."""
    option = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(jax.config, option)
    jax.config.update(option, ".*/")
    try:
        yield
    finally:
        jax.config.update(option, before)


def load_stablehlo(path: str | os.PathLike) -> Callable[[Array], Array]:
    """Load the network of a StableHLO file, for CPUs and NVIDIA GPUs.

    Returns:
        A function from float32 [B, H, W, C] in [-1, 1] to [B, H, W, C'] in (-1, 1). It is compiled
        for each shape and raises ValueError for heights and widths that the network does not take.

    Raises:
        UserError: The file cannot be read, or is not a StableHLO file.
    """
    check_installed("flatbuffers", "StableHLO")
    from jax import export

    try:
        exported = export.deserialize(bytearray(Path(path).read_bytes()))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # of any type, since the file may hold anything
        raise UserError(f"{path}: expected a StableHLO file of jax.export") from error
    return jax.jit(exported.call)
