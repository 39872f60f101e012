"""The compact CycleGAN in Paddle that `configs/horse2zebra_224.py` reproduces."""

import re
from collections.abc import Collection
from typing import Any

from cyclegan_jax.torch_weights.systems.base import (
    NamedFormat,
    System,
    Tensors,
    blocks_fields,
    kernel,
)

_NORM = "instance_affine"
_BLOCKS = 7
# Only residual blocks have biases before norms.
_BLOCK = re.compile(r"model\.([0-9]{1,2})\.model\.0\.bias")
_LAYER = re.compile(r"model\.([0-9]{1,2})\.model\.0\.weight")

SYSTEM = System(
    name="the Paddle tutorial",
    discriminators={"discriminator.variant": "patch_normed", "discriminator.norm": _NORM},
)


def _generator_matches(tensors: Tensors) -> bool:
    return "model.1.scale" in tensors and any(map(_LAYER.fullmatch, tensors))


def _detect_generator(tensors: Tensors) -> dict[str, Any]:
    blocks = len(list(filter(_BLOCK.fullmatch, tensors)))
    first = kernel(tensors, "model.0")
    return {
        **blocks_fields("resnet7_single", blocks, _BLOCKS),
        "generator.width": first.shape[0],
        "generator.norm": _NORM,
        "channels_in": first.shape[1],
        "channels_out": kernel(tensors, f"model.{7 + blocks}").shape[0],
    }


def _generator_layers(names: Collection[str], dropout: bool) -> dict[str, str]:
    """One sequence, in which the stem's norm and activation count, and layers hold their own."""
    blocks = sum(name.endswith("/conv_0") for name in names)
    down = {f"down_{i}": f"model.{3 + i}.model" for i in range(2)}
    up = {f"up_{i}": f"model.{5 + blocks + i}.model" for i in range(2)}
    table = {"stem": "model.0", "stem_norm": "model.1"}
    for layer, module in down.items():
        table |= {layer: f"{module}.0", f"{layer}_norm": f"{module}.1"}
    for i in range(blocks):
        module = f"model.{5 + i}.model"
        table |= {f"block_{i}/conv_0": f"{module}.0", f"block_{i}/norm_0": f"{module}.1"}
    for layer, module in up.items():
        table |= {layer: f"{module}.0", f"{layer}_norm": f"{module}.1"}
    return table | {"head": f"model.{7 + blocks}"}


def _discriminator_matches(tensors: Tensors) -> bool:
    return "model.0.model.1.scale" in tensors and "model.0.model.0.weight" in tensors


def _detect_discriminator(tensors: Tensors) -> dict[str, Any]:
    first = kernel(tensors, "model.0.model.0")
    return {
        "discriminator.variant": "patch_normed",
        "discriminator.layers": len(list(filter(_LAYER.fullmatch, tensors))) - 1,
        "discriminator.width": first.shape[0],
        "discriminator.norm": _NORM,
        "channels_in": first.shape[1],
    }


def _discriminator_layers(names: Collection[str], dropout: bool) -> dict[str, str]:
    last = sum(name.startswith("conv_") for name in names) - 1
    table: dict[str, str] = {}
    for i in range(last):
        table |= {f"conv_{i}": f"model.{i}.model.0", f"norm_{i}": f"model.{i}.model.1"}
    return table | {f"conv_{last}": f"model.{last}"}


FORMATS = {
    "a generator of the Paddle tutorial": NamedFormat(
        system=SYSTEM,
        network="generator",
        choices={"generator.norm": (_NORM,)},
        variants=("resnet7_single",),
        matches=_generator_matches,
        detect=_detect_generator,
        layers=_generator_layers,
        scale="scale",
    ),
    "a discriminator of the Paddle tutorial": NamedFormat(
        system=SYSTEM,
        network="discriminator",
        choices={
            "discriminator.norm": (_NORM,),
            "discriminator.sigmoid": (False,),
            "discriminator.scales": (1,),
        },
        variants=("patch_normed",),
        matches=_discriminator_matches,
        detect=_detect_discriminator,
        layers=_discriminator_layers,
        scale="scale",
    ),
}
