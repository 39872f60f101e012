"""The registry of formats: how published programs store the networks that we have.

A format is recognised from the tensors of a file. A new one is an entry of `FORMATS`, and belongs
into a module of `systems`.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from cyclegan_jax.torch_weights.systems import dgai, keras, original, paddle, pytorch_gan
from cyclegan_jax.torch_weights.systems.base import Format, System, Tensors, describe
from cyclegan_jax.utils.errors import UserError

FORMATS: dict[str, Format] = {
    **original.FORMATS,
    **pytorch_gan.FORMATS,
    **dgai.FORMATS,
    **keras.FORMATS,
    **paddle.FORMATS,
}

_RUNNING_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def trainable(tensors: Tensors) -> dict[str, np.ndarray]:
    """Return the tensors without DataParallel's prefix `module.` and without running statistics.

    Old instance norms have such statistics, and our batch norms do not use them.
    """
    return {
        name.removeprefix("module."): tensor
        for name, tensor in tensors.items()
        if not name.endswith(_RUNNING_STATISTICS)
    }


def find_format(network: str, tensors: Tensors) -> Format:
    """Return the format that tensors are in.

    Args:
        network: generator or discriminator.
        tensors: From `trainable`.

    Raises:
        UserError: No format of such a network matches, or a tensor is empty.
    """
    if empty := {name: tensor for name, tensor in tensors.items() if tensor.size == 0}:
        raise UserError(f"expected tensors with numbers, got {describe(empty)}")
    matching = [name for name, entry in FORMATS.items() if entry.matches(tensors)]
    for name in matching:
        if FORMATS[name].network == network:
            return FORMATS[name]
    systems = _join(entry.system.name for entry in FORMATS.values())
    result = matching[0] if matching else f"the tensors {describe(tensors)}"
    raise UserError(f"expected a {network} of {systems}, got {result}")


def exporting(fields: Mapping[str, Any]) -> tuple[System, dict[str, Format]]:
    """Return the system that has the networks of a configuration, and their formats by kind.

    Args:
        fields: Of a configuration, by dotted name.

    Raises:
        UserError: Names the first field with which no system has such networks.
    """
    entries = [entry for entry in FORMATS.values() if entry.system.exported]
    formats: dict[str, Format] = {}
    for network in ("generator", "discriminator"):
        name = f"{network}.variant"
        candidates = [entry for entry in entries if entry.network == network]
        found = [entry for entry in candidates if fields[name] in entry.variants]
        if not found:
            systems = _join(entry.system.name for entry in candidates)
            variants = itertools.chain.from_iterable(entry.variants for entry in candidates)
            raise UserError(
                f"config.{name}: expected {_join(variants)}, as {systems} has, got {fields[name]!r}"
            )
        formats[network] = found[0]
        entries = [entry for entry in entries if entry.system == found[0].system]
    system = formats["generator"].system
    for entry in formats.values():
        check_choices(fields, entry.choices, system)
    check_choices(fields, system.published, system)
    if system.one_channel_count:
        equal = {"data.channels_b": (fields["data.channels_a"],)}
        check_choices(fields, equal, system)
    return system, formats


def check_choices(
    fields: Mapping[str, Any], choices: Mapping[str, tuple[Any, ...]], system: System
) -> None:
    """Raise UserError for the first field whose value a system does not have."""
    for name, values in choices.items():
        if fields[name] not in values:
            raise UserError(
                f"config.{name}: expected {_join(map(repr, values))}, as {system.name} has, got "
                f"{fields[name]!r}"
            )


def _join(names: Any) -> str:
    """Return different names as in `a, b or c`."""
    *first, last = dict.fromkeys(names)
    return f"{', '.join(first)} or {last}" if first else str(last)
