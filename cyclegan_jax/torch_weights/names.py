"""Our parameters and the state dicts of the PyTorch original, tensor by tensor.

The original numbers the layers of a network by their place in a sequence in which padding, norms
and activations count as well; `_modules` has the places. All else follows from a tree of ours.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from cyclegan_jax.utils.errors import UserError

Params = Any
Tensors = Mapping[str, np.ndarray]

_OF_RUNNING_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_SUFFIXES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


class _Leaf(NamedTuple):
    """One parameter.

    Attributes:
        name: of the tensor.
        path: keys in our tree.
        axes: our axes, in the order of the tensor's.
    """

    name: str
    path: tuple[str, ...]
    axes: tuple[int, ...]


def params_from_torch(tensors: Tensors, like: Params) -> Params:
    """The parameters of one network, from the state dict of the original's.

    A prefix `module.` is stripped; running statistics, which old instance norms have and our batch
    norms do not use, are passed over; residual blocks may have been built with dropout.

    Args:
        tensors: of a state dict, by name.
        like: the network's tree of parameters, or of their shapes.

    Returns:
        A tree as `like`, of NumPy arrays of its types.

    Raises:
        UserError: tensors are missing, too many, or of another shape; they are listed by name.
    """
    tensors = _cleaned(tensors)
    leaves = {leaf.name: leaf for leaf in _leaves(like, dropout=_built_with_dropout(tensors))}
    missing, unlike = [], []
    params: Params = {}
    for name, leaf in leaves.items():
        target = _at(like, leaf.path)
        expected = tuple(target.shape[axis] for axis in leaf.axes)
        if name not in tensors:
            missing.append(name)
        elif tensors[name].shape != expected:
            unlike.append(f"{name} {list(tensors[name].shape)} for {list(expected)}")
        else:
            ours = tensors[name].transpose(np.argsort(leaf.axes))
            node = params
            for key in leaf.path[:-1]:
                node = node.setdefault(key, {})
            node[leaf.path[-1]] = np.array(ours, target.dtype)
    extra = [name for name in tensors if name not in leaves]
    lists = {"missing": missing, "not expected": extra, "of another shape": unlike}
    problems = [f"{kind}: {_shortened(names)}" for kind, names in lists.items() if names]
    if problems:
        raise UserError(f"does not fit; {'; '.join(problems)}")
    return params


def torch_from_params(params: Params, *, dropout: bool = False) -> dict[str, np.ndarray]:
    """The state dict of the original's network, in its order.

    Args:
        params: of one network that the original has: a ResNet or U-Net, a patch or pixel
            discriminator, as published.
        dropout: whether the residual blocks that are to take it are built with dropout.

    Returns:
        Arrays by name. Batch norms get the running statistics of a new one: ours have none.
    """
    tensors = {}
    for leaf in _leaves(params, dropout=dropout):
        array = np.asarray(_at(params, leaf.path))
        tensors[leaf.name] = np.array(array.transpose(leaf.axes), order="C")
        if leaf.path[-1] == "bias" and "scale" in _at(params, leaf.path[:-1]):
            module = leaf.name.removesuffix(".bias")
            tensors[f"{module}.running_mean"] = np.zeros_like(array)
            tensors[f"{module}.running_var"] = np.ones_like(array)
            tensors[f"{module}.num_batches_tracked"] = np.zeros((), np.int64)
    return tensors


def detect_generator(tensors: Tensors) -> dict[str, Any]:
    """What a generator is, from the tensors of its state dict.

    Of dropout in a U-Net they tell nothing: it is taken to have none.

    Returns:
        Fields of the configuration by dotted name, and `channels_in` and `channels_out`.

    Raises:
        UserError: it is no generator of the original.
    """
    tensors = _cleaned(tensors)
    kernels = [name for name, tensor in tensors.items() if tensor.ndim == 4]
    if "model.model.0.weight" in kernels:
        first, normed, last, out_axis = "model.model.0", "model.model.0", "model.model.3", 1
        depth = max(name.count("model.") for name in kernels) - 1
        if depth not in (7, 8):
            raise UserError(f"a U-Net of {depth} levels; 7 (unet128) or 8 (unet256) were expected")
        variant, blocks = {7: "unet128", 8: "unet256"}[depth], None
    elif (count := len({m[1] for m in map(_BLOCK.match, kernels) if m})) > 0:
        first, normed, last, out_axis = "model.1", "model.1", f"model.{17 + count}", 0
        published = count in (3, 6, 9)
        variant, blocks = (f"resnet{count}", None) if published else ("resnet9", count)
    else:
        raise UserError(f"not a ResNet or U-Net of the original: {_listed(tensors)}")
    start, end = (_kernel(tensors, name) for name in (first, last))
    return {
        "generator.variant": variant,
        "generator.blocks": blocks,
        "generator.width": start.shape[0],
        "generator.norm": _norm(tensors, normed),
        "generator.dropout": 0.5 if _built_with_dropout(tensors) else 0.0,
        "channels_in": start.shape[1],
        "channels_out": end.shape[out_axis],
    }


def detect_discriminator(tensors: Tensors) -> dict[str, Any]:
    """What a discriminator is, from the tensors of its state dict; as `detect_generator`.

    Returns:
        Fields of the configuration by dotted name, and `channels_in`.

    Raises:
        UserError: it is no discriminator of the original.
    """
    tensors = _cleaned(tensors)
    places = [int(m[1]) for name in tensors if (m := re.fullmatch(r"model\.(\d+)\.weight", name))]
    fields: dict[str, Any]
    if "net.0.weight" in tensors:
        first, normed, fields = "net.0", "net.2", {"discriminator.variant": "pixel"}
    elif 0 in places and max(places) >= 5 and not any(map(_BLOCK.match, tensors)):
        layers = (max(places) - 2) // 3
        first, normed = "model.0", "model.2"
        fields = {"discriminator.variant": "patch", "discriminator.layers": layers}
    else:
        raise UserError(f"not a patch or pixel discriminator of the original: {_listed(tensors)}")
    start = _kernel(tensors, first)
    return fields | {
        "discriminator.width": start.shape[0],
        "discriminator.norm": _norm(tensors, normed),
        "channels_in": start.shape[1],
    }


_BLOCK = re.compile(r"model\.(\d+)\.conv_block\.")


def _leaves(tree: Params, *, dropout: bool) -> Iterator[_Leaf]:
    """Every parameter of a tree, in the order of the original's state dict."""
    for place, module in _modules(tree, dropout=dropout).items():
        path = tuple(place.split("/"))
        layer = _at(tree, path)
        for key in ("kernel", "scale", "bias"):
            if key in layer:
                # PyTorch has [out, in, h, w], transposed [in, out, h, w]; we have [h, w, in, out].
                kernel_axes = (2, 3, 0, 1) if path[-1].startswith("up_") else (3, 2, 0, 1)
                axes = kernel_axes if key == "kernel" else (0,)
                yield _Leaf(f"{module}.{_SUFFIXES[key]}", (*path, key), axes)


def _modules(tree: Params, *, dropout: bool) -> dict[str, str]:
    """The original's names of a network's layers, by our path; norms also where they have none."""
    if "stem" in tree:
        return _resnet_modules(sum(name.startswith("block_") for name in tree), dropout)
    if "down_0" in tree:
        return _unet_modules(sum(name.startswith("up_") and "norm" not in name for name in tree))
    if tree["conv_0"]["kernel"].shape[0] == 1:
        return {"conv_0": "net.0", "conv_1": "net.2", "norm_1": "net.3", "conv_2": "net.5"}
    layers = sum(name.startswith("conv_") for name in tree) - 2
    modules = {"conv_0": "model.0"}
    for i in range(1, layers + 1):
        modules |= {f"conv_{i}": f"model.{3 * i - 1}", f"norm_{i}": f"model.{3 * i}"}
    return modules | {f"conv_{layers + 1}": f"model.{3 * layers + 2}"}


def _resnet_modules(blocks: int, dropout: bool) -> dict[str, str]:
    outer = {"stem": 1, "down_0": 4, "down_1": 7, "up_0": 10 + blocks, "up_1": 13 + blocks}
    inner = {"conv_0": 1, "norm_0": 2, "conv_1": 5 + dropout, "norm_1": 6 + dropout}
    modules: dict[str, str] = {}
    for name, place in outer.items():
        modules |= {name: f"model.{place}", f"{name}_norm": f"model.{place + 1}"}
        if name == "down_1":
            for i in range(blocks):
                for part, index in inner.items():
                    modules[f"block_{i}/{part}"] = f"model.{10 + i}.conv_block.{index}"
    return modules | {"head": f"model.{17 + blocks}"}


def _unet_modules(depth: int) -> dict[str, str]:
    """Each level is a sequence with the next one inside, between its way down and its way up."""
    down: dict[str, str] = {}
    up: dict[str, str] = {}
    level = "model.model"
    for i in range(depth):
        innermost = i == depth - 1
        down |= {f"down_{i}": f"{level}.{min(i, 1)}", f"down_{i}_norm": f"{level}.2"}
        place = 3 if i == 0 or innermost else 5
        up = {f"up_{i}": f"{level}.{place}", f"up_{i}_norm": f"{level}.{place + 1}"} | up
        level += ".1.model" if i == 0 else ".3.model"
    return down | up


def _at(tree: Params, path: tuple[str, ...]) -> Any:
    """What lies at a path; nothing where a norm has no parameters."""
    for key in path:
        tree = tree.get(key, {})
    return tree


def _cleaned(tensors: Tensors) -> dict[str, np.ndarray]:
    return {
        name.removeprefix("module."): tensor
        for name, tensor in tensors.items()
        if not name.endswith(_OF_RUNNING_STATISTICS)
    }


def _built_with_dropout(tensors: Tensors) -> bool:
    """Whether the second convolution of a block comes one place later, after a dropout."""
    return any(t.ndim == 4 and n.endswith(".conv_block.6.weight") for n, t in tensors.items())


def _norm(tensors: Tensors, normed: str) -> str:
    """The kind of norm; `normed` is a convolution that has a bias only before instance norm."""
    if any(t.ndim == 1 and name.endswith(".weight") for name, t in tensors.items()):
        return "batch"
    return "instance" if f"{normed}.bias" in tensors else "none"


def _kernel(tensors: Tensors, module: str) -> np.ndarray:
    kernel = tensors.get(f"{module}.weight")
    if kernel is None or kernel.ndim != 4:
        raise UserError(f"does not fit: {module}.weight is missing; it holds {_listed(tensors)}")
    return kernel


def _listed(tensors: Tensors) -> str:
    return _shortened([f"{name} {list(tensor.shape)}" for name, tensor in tensors.items()])


def _shortened(items: list[str], most: int = 10) -> str:
    """A list for a message of one line."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(" ".join(item.split()) for item in items[:most]) + more
