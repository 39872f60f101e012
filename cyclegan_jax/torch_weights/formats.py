"""Formats of weights: how other systems name and lay out the parameters of our networks.

A format is recognised from the tensors of a file. `FORMATS` holds those of the PyTorch original,
https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix. A new one is an entry there, whose class
overrides `to_params` and `from_params` if it differs by more than the names of layers.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cyclegan_jax.torch_weights.unpickler import one_line
from cyclegan_jax.utils.errors import UserError

Params = Any
Tensors = Mapping[str, np.ndarray]

_SUFFIXES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_RUNNING_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_BLOCK = re.compile(r"model\.([0-9]{1,2})\.conv_block\.([0-9])\.weight")


@dataclass(frozen=True)
class Format:
    """The weights of one kind of network, as another system stores them.

    Attributes:
        network: generator or discriminator.
        variants: Values of `generator.variant` or `discriminator.variant` that it can hold.
        matches: Returns whether tensors are in this format.
        detect: Returns what tensors determine of the configuration: fields by dotted name,
            `channels_in` and, for a generator, `channels_out`. Raises UserError.
        layers: Returns the table {our layer: their module} in their order. It receives the names of
            our layers that have parameters, such as block_0/conv_0, and whether their modules
            include dropouts. The table may hold norms without parameters.
    """

    network: str
    variants: tuple[str, ...]
    matches: Callable[[Tensors], bool]
    detect: Callable[[Tensors], dict[str, Any]]
    layers: Callable[[Collection[str], bool], dict[str, str]]

    def to_params(self, tensors: Tensors, like: Params) -> Params:
        """Return the parameters of one network.

        Args:
            tensors: From `trainable`.
            like: The network's tree of parameters, or of their shapes.

        Returns:
            A tree as `like`, of NumPy arrays of its types.

        Raises:
            UserError: Tensors are missing, unexpected or of another shape; lists their names.
        """
        flat = flatten_dict(like, sep="/")
        table = self._table(flat, _has_dropout(tensors))
        missing, other_shape, params = [], [], {}
        for path, (name, axes) in table.items():
            shape = tuple(flat[path].shape[axis] for axis in axes)
            if name not in tensors:
                missing.append(name)
            elif tensors[name].shape != shape:
                other_shape.append(f"{name} {list(tensors[name].shape)} for {list(shape)}")
            else:
                array = tensors[name].transpose(np.argsort(axes))
                params[path] = np.array(array, flat[path].dtype)
        expected = {name for name, _ in table.values()}
        unexpected = [name for name in tensors if name not in expected]
        lists = {"missing": missing, "unexpected": unexpected, "of another shape": other_shape}
        problems = [f"{kind}: {_shorten(names)}" for kind, names in lists.items() if names]
        if problems:
            raise UserError(f"does not fit the network; {'; '.join(problems)}")
        return unflatten_dict(params, sep="/")

    def from_params(self, params: Params, *, dropout: bool = False) -> dict[str, np.ndarray]:
        """Return the tensors of one network, by name, in the order of the other system.

        Args:
            params: The parameters of a network of `variants`.
            dropout: Whether the other system is to build the network with dropout.

        Returns:
            A state dict. Batch norms, which have running statistics there, get those of a new norm.
        """
        flat = flatten_dict(params, sep="/")
        tensors = {}
        for path, (name, axes) in self._table(flat, dropout).items():
            array = np.asarray(flat[path])
            tensors[name] = np.array(array.transpose(axes), order="C")
            if path.endswith("/bias") and f"{path.removesuffix('bias')}scale" in flat:
                module = name.removesuffix(".bias")
                tensors[f"{module}.running_mean"] = np.zeros_like(array)
                tensors[f"{module}.running_var"] = np.ones_like(array)
                tensors[f"{module}.num_batches_tracked"] = np.zeros((), np.int64)
        return tensors

    def _table(self, flat: Collection[str], dropout: bool) -> dict[str, tuple[str, Any]]:
        """Return {our parameter: (their tensor, our axes in the order of theirs)}."""
        table = {}
        layers = {path.rpartition("/")[0] for path in flat}
        for layer, module in self.layers(layers, dropout).items():
            # Ours: [h, w, in, out]; PyTorch's: [out, in, h, w], transposed [in, out, h, w].
            kernel_axes = (2, 3, 0, 1) if layer.startswith("up_") else (3, 2, 0, 1)
            for parameter, suffix in _SUFFIXES.items():
                if (path := f"{layer}/{parameter}") in flat:
                    axes = kernel_axes if parameter == "kernel" else (0,)
                    table[path] = f"{module}.{suffix}", axes
        if absent := [path for path in flat if path not in table]:
            raise UserError(f"{', '.join(self.variants)} have no {_shorten(absent)}")
        return table


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
        UserError: No format of such a network matches.
    """
    matching = [name for name, entry in FORMATS.items() if entry.matches(tensors)]
    for name in matching:
        if FORMATS[name].network == network:
            return FORMATS[name]
    expected = " or ".join(name for name, entry in FORMATS.items() if entry.network == network)
    result = matching[0] if matching else f"the tensors {_list(tensors)}"
    raise UserError(f"expected {expected} of the PyTorch original, got {result}")


def format_of(network: str, variant: str) -> Format:
    """Return the format in which to write a network; raise UserError if none can hold it."""
    entries = [entry for entry in FORMATS.values() if entry.network == network]
    for entry in entries:
        if variant in entry.variants:
            return entry
    known = ", ".join(variant for entry in entries for variant in entry.variants)
    raise UserError(
        f"config.{network}.variant: expected one of {known}, which the PyTorch original has, "
        f"got {variant!r}"
    )


def _resnet_matches(tensors: Tensors) -> bool:
    return any(map(_BLOCK.fullmatch, tensors))


def _detect_resnet(tensors: Tensors) -> dict[str, Any]:
    blocks = len({m[1] for m in map(_BLOCK.fullmatch, tensors) if m})
    published = blocks in (3, 6, 9)
    return {
        "generator.variant": f"resnet{blocks}" if published else "resnet9",
        "generator.blocks": None if published else blocks,
        "generator.dropout": 0.5 if _has_dropout(tensors) else 0.0,
        "channels_out": _kernel(tensors, f"model.{17 + blocks}").shape[0],
        **_detect_layers("generator", tensors, "model.1", "model.1"),
    }


def _resnet_layers(names: Collection[str], dropout: bool) -> dict[str, str]:
    """One sequence, in which padding, norms, activations and dropouts count as well."""
    blocks = sum(name.endswith("/conv_0") for name in names)
    block = {"conv_0": 1, "norm_0": 2, "conv_1": 5 + dropout, "norm_1": 6 + dropout}
    return {
        "stem": "model.1",
        "stem_norm": "model.2",
        "down_0": "model.4",
        "down_0_norm": "model.5",
        "down_1": "model.7",
        "down_1_norm": "model.8",
        **{
            f"block_{i}/{layer}": f"model.{10 + i}.conv_block.{place}"
            for i in range(blocks)
            for layer, place in block.items()
        },
        "up_0": f"model.{10 + blocks}",
        "up_0_norm": f"model.{11 + blocks}",
        "up_1": f"model.{13 + blocks}",
        "up_1_norm": f"model.{14 + blocks}",
        "head": f"model.{17 + blocks}",
    }


def _detect_unet(tensors: Tensors) -> dict[str, Any]:
    variants = {7: "unet128", 8: "unet256"}
    levels = max(name.count("model.") for name in tensors) - 1
    if levels not in variants:
        raise UserError(f"expected a U-Net of 7 (unet128) or 8 (unet256) levels, got {levels}")
    return {
        "generator.variant": variants[levels],
        "generator.blocks": None,
        "generator.dropout": 0.0,  # the tensors do not tell
        "channels_out": _kernel(tensors, "model.model.3").shape[1],
        **_detect_layers("generator", tensors, "model.model.0", "model.model.0"),
    }


def _unet_layers(names: Collection[str], dropout: bool) -> dict[str, str]:
    """Nested sequences: each level contains the next one."""
    levels = sum(bool(re.fullmatch(r"down_\d+", name)) for name in names)
    down: dict[str, str] = {}
    up: dict[str, str] = {}
    level = "model.model"
    for i in range(levels):
        outermost, innermost = i == 0, i == levels - 1
        place = 3 if outermost or innermost else 5
        down |= {f"down_{i}": f"{level}.{0 if outermost else 1}", f"down_{i}_norm": f"{level}.2"}
        up = {f"up_{i}": f"{level}.{place}", f"up_{i}_norm": f"{level}.{place + 1}"} | up
        level += ".1.model" if outermost else ".3.model"
    return down | up


def _patch_places(tensors: Tensors) -> list[int]:
    return [
        int(m[1]) for m in map(re.compile(r"model\.([0-9]{1,3})\.weight").fullmatch, tensors) if m
    ]


def _patch_matches(tensors: Tensors) -> bool:
    places = _patch_places(tensors)
    return 0 in places and max(places) >= 5 and not _resnet_matches(tensors)


def _detect_patch(tensors: Tensors) -> dict[str, Any]:
    return {
        "discriminator.variant": "patch",
        "discriminator.layers": (max(_patch_places(tensors)) - 2) // 3,
        **_detect_layers("discriminator", tensors, "model.0", "model.2"),
    }


def _patch_layers(names: Collection[str], dropout: bool) -> dict[str, str]:
    last = sum(name.startswith("conv_") for name in names) - 1
    table = {"conv_0": "model.0"}
    for i in range(1, last):
        table |= {f"conv_{i}": f"model.{3 * i - 1}", f"norm_{i}": f"model.{3 * i}"}
    return table | {f"conv_{last}": f"model.{3 * last - 1}"}


# Formats of the PyTorch original.
FORMATS = {
    "a ResNet generator": Format(
        network="generator",
        variants=("resnet3", "resnet6", "resnet9"),
        matches=_resnet_matches,
        detect=_detect_resnet,
        layers=_resnet_layers,
    ),
    "a U-Net generator": Format(
        network="generator",
        variants=("unet128", "unet256"),
        matches=lambda tensors: "model.model.0.weight" in tensors,
        detect=_detect_unet,
        layers=_unet_layers,
    ),
    "a PatchGAN discriminator": Format(
        network="discriminator",
        variants=("patch",),
        matches=_patch_matches,
        detect=_detect_patch,
        layers=_patch_layers,
    ),
    "a pixel discriminator": Format(
        network="discriminator",
        variants=("pixel",),
        matches=lambda tensors: "net.0.weight" in tensors,
        detect=lambda tensors: {
            "discriminator.variant": "pixel",
            **_detect_layers("discriminator", tensors, "net.0", "net.2"),
        },
        layers=lambda names, dropout: {
            "conv_0": "net.0",
            "conv_1": "net.2",
            "norm_1": "net.3",
            "conv_2": "net.5",
        },
    ),
}


def _detect_layers(network: str, tensors: Tensors, first: str, normed: str) -> dict[str, Any]:
    """Return width, norm and channels from the first convolution and one before a norm."""
    kernel = _kernel(tensors, first)
    if any(tensor.ndim == 1 and name.endswith(".weight") for name, tensor in tensors.items()):
        norm = "batch"
    else:
        norm = "instance" if f"{normed}.bias" in tensors else "none"
    return {
        f"{network}.width": kernel.shape[0],
        f"{network}.norm": norm,
        "channels_in": kernel.shape[1],
    }


def _has_dropout(tensors: Tensors) -> bool:
    """Return whether a dropout moves the second convolution of residual blocks by one place."""
    matches = ((_BLOCK.fullmatch(name), tensor) for name, tensor in tensors.items())
    return any(m is not None and m[2] == "6" and tensor.ndim == 4 for m, tensor in matches)


def _kernel(tensors: Tensors, module: str) -> np.ndarray:
    kernel = tensors.get(f"{module}.weight")
    if kernel is None or kernel.ndim != 4:
        raise UserError(f"expected a kernel {module}.weight, got {_list(tensors)}")
    return kernel


def _list(tensors: Tensors) -> str:
    return _shorten([f"{name} {list(tensor.shape)}" for name, tensor in tensors.items()])


def _shorten(items: list[str], most: int = 10) -> str:
    """Return a list for a message of one line."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(one_line(item) for item in items[:most]) + more
