"""CycleGAN-Keras at 5d4cd0a, https://github.com/simontomaskarlsson/CycleGAN-Keras.

Keras numbers layers through all networks of a program, so tensors are told by their order.
"""

import functools
import itertools
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cyclegan_jax.torch_weights.systems.base import (
    Format,
    Mismatches,
    Params,
    System,
    Tensors,
    blocks_fields,
)
from cyclegan_jax.utils.errors import UserError

# Instance norm with scale and offset.
NORM = "instance_affine_std"

_BLOCKS = 9
_MAX_BLOCKS = 100
_MAX_LAYERS = 10
_MAX_SCALES = 2
_MAX_DENSE_SIDE = 32  # of the map that a dense unit sees; the image pool grows with its square

SYSTEM = System(
    name="CycleGAN-Keras",
    discriminators={
        "discriminator.variant": "patch_same",
        "discriminator.layers": 4,
        "discriminator.norm": NORM,
        "discriminator.sigmoid": True,
    },
)


@dataclass(frozen=True, kw_only=True)
class _OrderedFormat(Format):
    """A format in which tensors have the order of our layers.

    Attributes:
        transposed: Whether layers up_0, up_1, ... are transposed convolutions, whose kernels are
            [h, w, out, in] there.
    """

    transposed: bool = False

    def to_params(self, tensors: Tensors, like: Params) -> Params:
        """Return the parameters of one network; see `Format`."""
        flat = flatten_dict(like, sep="/")
        params = {}
        mismatches = Mismatches()
        for path, name in itertools.zip_longest(sorted(flat, key=_order), tensors):
            if path is None:
                mismatches.lists["unexpected"].append(name)
            elif name is None:
                mismatches.lists["missing"].append(path)
            else:
                shape, array = flat[path].shape, tensors[name]
                if self.transposed and array.ndim == 4 and path.startswith("up_"):
                    array = array.swapaxes(2, 3)
                elif "dense/" in path and array.shape == (math.prod(shape), 1):
                    array = array.reshape(shape)
                if mismatches.check(name, array, shape):
                    params[path] = np.array(array, flat[path].dtype)
        mismatches.refuse()
        return unflatten_dict(params, sep="/")


def _order(path: str) -> tuple[Any, ...]:
    """Return a key that sorts our parameters in the order of the layers.

    Such as scale_1/norm_2/bias, block_0/conv_1/kernel or down_1_norm/scale.
    """
    *layers, parameter = path.split("/")
    key: list[Any] = []
    for layer in layers:
        name = layer.removesuffix("_norm")
        number = re.search(r"_(\d+)$", name)
        place = 0 if number is None else int(number[1])
        group = name if number is None else name[: number.start()]
        # conv_i and norm_i alternate; so do down_i and down_i_norm.
        later = group == "norm" or layer.endswith("_norm")
        group = {"norm": "conv"}.get(group, group)
        key += [_GROUPS.index(group), place, later]
    return *key, ("kernel", "scale", "bias").index(parameter)


_GROUPS = ("scale", "stem", "down", "block", "up", "head", "conv", "dense")


def _kernels(tensors: Tensors) -> list[tuple[int, ...]]:
    """Return the shapes of kernels; empty for tensors of another system."""
    kernels = [tensor.shape for name, tensor in tensors.items() if name.endswith("/kernel:0")]
    return kernels if all(len(shape) in (2, 4) for shape in kernels) else []


def _is_convolution(shape: tuple[int, ...], size: int) -> bool:
    return len(shape) == 4 and shape[:2] == (size, size)


def _levels(kernels: Collection[tuple[int, ...]]) -> int:
    """Return how many layers after the first double the channels."""
    rest = itertools.islice(kernels, 1, None)
    return len(list(itertools.takewhile(lambda s: s[3] == 2 * s[2], rest)))


def _generator_matches(levels: int, transposed: bool, tensors: Tensors) -> bool:
    kernels = _kernels(tensors)
    if len(kernels) < 4 or not all(_is_convolution(s, 7) for s in (kernels[0], kernels[-1])):
        return False
    if not all(_is_convolution(s, 3) for s in kernels[1:-1]) or _levels(kernels) != levels:
        return False
    up = kernels[-2]
    return up[3] == 2 * up[2] if transposed else up[2] == 2 * up[3]


def _detect_generator(variant: str, levels: int, tensors: Tensors) -> dict[str, Any]:
    kernels = _kernels(tensors)
    blocks = (len(kernels) - 2 - 2 * levels) // 2
    if not 0 < blocks <= _MAX_BLOCKS:
        raise UserError(f"expected 1 to {_MAX_BLOCKS} residual blocks, got {blocks}")
    return {
        **blocks_fields(variant, blocks, _BLOCKS),
        "generator.width": kernels[0][3],
        "generator.norm": NORM,
        "channels_in": kernels[0][2],
        "channels_out": kernels[-1][-1],
    }


def _discriminator_matches(dense: bool, tensors: Tensors) -> bool:
    kernels = _kernels(tensors)
    if not kernels or not _is_convolution(kernels[0], 4):
        return False
    return (len(kernels[-1]) == 2) == dense


def _detect_discriminator(variant: str, tensors: Tensors) -> dict[str, Any]:
    kernels = _kernels(tensors)
    scales = kernels.count(kernels[0])
    layers = len(kernels) // scales - 1
    if scales > _MAX_SCALES or not 0 < layers <= _MAX_LAYERS:
        raise UserError(
            f"expected at most {_MAX_SCALES} discriminators of 1 to {_MAX_LAYERS} layers, got "
            f"{scales} of {layers}"
        )
    fields = {
        "discriminator.variant": variant,
        "discriminator.layers": layers,
        "discriminator.width": kernels[0][3],
        "discriminator.norm": NORM,
        "discriminator.sigmoid": True,
        "discriminator.scales": scales,
        "channels_in": kernels[0][2],
    }
    if variant == "dense":
        # The unit sees the whole map, of one size only; the last convolution has its channels.
        size = _dense_side(kernels[layers][0], kernels[layers - 1][-1]) * 2**layers
        fields |= {"data.load_size": size, "data.crop_size": size}
    return fields


def _dense_side(weights: int, channels: int) -> int:
    """Return the side of the map that a dense unit sees."""
    pixels, rest = divmod(weights, channels) if channels else (0, 1)
    side = math.isqrt(pixels)
    if rest or side**2 != pixels or not 0 < side <= _MAX_DENSE_SIDE:
        raise UserError(
            f"expected a dense unit for square images of at most {_MAX_DENSE_SIDE} positions a "
            f"side, got {weights} weights for {channels} channels; give the size with --config"
        )
    return side


def _generator(variant: str, levels: int, transposed: bool) -> _OrderedFormat:
    return _OrderedFormat(
        system=SYSTEM,
        network="generator",
        choices={"generator.norm": (NORM,)},
        variants=(variant,),
        matches=functools.partial(_generator_matches, levels, transposed),
        detect=functools.partial(_detect_generator, variant, levels),
        transposed=transposed,
    )


def _discriminator(variant: str) -> _OrderedFormat:
    return _OrderedFormat(
        system=SYSTEM,
        network="discriminator",
        choices={"discriminator.norm": (NORM,), "discriminator.sigmoid": (True,)},
        variants=(variant,),
        matches=functools.partial(_discriminator_matches, variant == "dense"),
        detect=functools.partial(_detect_discriminator, variant),
    )


FORMATS = {
    "a generator of CycleGAN-Keras": _generator("resnet9_same", 2, transposed=True),
    "a generator of CycleGAN-Keras with resize convolutions": _generator(
        "resnet9_same_resize", 2, transposed=False
    ),
    "a generator of CycleGAN-Keras with three levels": _generator(
        "resnet9_same_deep", 3, transposed=True
    ),
    "a discriminator of CycleGAN-Keras": _discriminator("patch_same"),
    "a discriminator of CycleGAN-Keras with a dense unit": _discriminator("dense"),
}
