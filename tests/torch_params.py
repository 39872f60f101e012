"""Parameters of the PyTorch networks as trees of the Flax networks."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor


def to_flax(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Convert a state dict, or gradients by its keys, to the `params` of our network.

    Networks of `torch_recipes` have our names. For those of `torch_networks`, which have the
    published names, this relies on the order of state dicts, in which layers run (in a U-Net first
    all downsampling, then all upsampling). A norm belongs to the convolution before it. Running
    statistics are ignored.
    """
    if next(iter(state_dict)).startswith(("model.", "net.")):
        return _by_order(state_dict)
    return _by_name(state_dict)


def _by_name(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Convert keys like `up_0.transposed.weight` (a kernel) or `stem_norm.weight` (a scale)."""
    params: dict[str, Any] = {}
    for key, tensor in state_dict.items():
        *path, leaf = key.split(".")
        transposed = path[-1] == "transposed"
        tree = params
        for part in path[: len(path) - transposed]:
            tree = tree.setdefault(part, {})
        array = tensor.detach().cpu().numpy().copy()
        if leaf == "bias":
            tree["bias"] = array
        elif array.ndim == 1:
            tree["scale"] = array
        else:
            tree["kernel"] = array.transpose((2, 3, 0, 1) if transposed else (2, 3, 1, 0))
    return params


def _by_order(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    layers: dict[str, dict[str, np.ndarray]] = {}
    for key, tensor in state_dict.items():
        layer, leaf = key.rsplit(".", 1)
        if leaf in ("weight", "bias"):
            # A copy: PyTorch updates in place, possibly while JAX still reads.
            layers.setdefault(layer, {})[leaf] = tensor.detach().cpu().numpy().copy()
    names = iter(_convolution_names(list(layers), layers))
    params: dict[str, Any] = {}
    name = ""
    for tensors in layers.values():
        if tensors["weight"].ndim == 4:
            name = next(names)
            up = name.startswith("up_")
            leaves = {"kernel": tensors["weight"].transpose((2, 3, 0, 1) if up else (2, 3, 1, 0))}
            path = name
        else:
            leaves = {"scale": tensors["weight"]}
            path = name.replace("conv_", "norm_") if "conv_" in name else f"{name}_norm"
        if "bias" in tensors:
            leaves["bias"] = tensors["bias"]
        *parents, last = path.split("/")
        tree = params
        for parent in parents:
            tree = tree.setdefault(parent, {})
        tree[last] = leaves
    return params


def _convolution_names(keys: list[str], layers: Mapping[str, Any]) -> list[str]:
    """Return our names of the convolutions, in the order of the state dict."""
    count = sum(layer["weight"].ndim == 4 for layer in layers.values())
    if keys[0].startswith("model.model."):
        down = [f"down_{i}" for i in range(count // 2)]
        return down + [f"up_{i}" for i in reversed(range(count // 2))]
    blocks = sorted({int(m[1]) for key in keys if (m := re.search(r"\.(\d+)\.conv_block", key))})
    if not blocks:
        return [f"conv_{i}" for i in range(count)]
    middle = [f"block_{i}/conv_{j}" for i in range(len(blocks)) for j in range(2)]
    return ["stem", "down_0", "down_1", *middle, "up_0", "up_1", "head"]
