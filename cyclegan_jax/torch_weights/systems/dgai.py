"""DGAI, the code of a book on generative AI: https://github.com/markhliu/DGAI (ch06util.py)."""

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

_BLOCK = re.compile(r"res_blocks\.([0-9]{1,2})\.block\.[01]\.conv\.0\.weight")
_LAYER = re.compile(r"model\.([0-9]{1,2})\.conv\.0\.weight")
_BLOCKS = 9

# A is black hair, B blond; the generators are called by their results. The discriminators, which
# the book does not save, are called as its variables.
SYSTEM = System(
    name="DGAI",
    discriminators={"discriminator.variant": "patch_reflect", "discriminator.sigmoid": True},
    exported={
        "gen_ab": "gen_blond.pth",
        "gen_ba": "gen_black.pth",
        "disc_a": "disc_A.pth",
        "disc_b": "disc_B.pth",
    },
    one_channel_count=True,
)


def _detect_generator(tensors: Tensors) -> dict[str, Any]:
    blocks = len({m[1] for m in map(_BLOCK.fullmatch, tensors) if m})
    first = kernel(tensors, "initial.0")
    return {
        **blocks_fields("resnet9_reflect", blocks, _BLOCKS),
        "generator.width": first.shape[0],
        "generator.norm": "instance",
        "channels_in": first.shape[1],
        "channels_out": kernel(tensors, "last").shape[0],
    }


def _generator_layers(names: Collection[str], dropout: bool) -> dict[str, str]:
    blocks = sum(name.endswith("/conv_0") for name in names)
    return {
        "stem": "initial.0",
        **{f"down_{i}": f"down_blocks.{i}.conv.0" for i in range(2)},
        **{
            f"block_{i}/conv_{j}": f"res_blocks.{i}.block.{j}.conv.0"
            for i in range(blocks)
            for j in range(2)
        },
        **{f"up_{i}": f"up_blocks.{i}.conv.0" for i in range(2)},
        "head": "last",
    }


def _detect_discriminator(tensors: Tensors) -> dict[str, Any]:
    first = kernel(tensors, "initial.0")
    return {
        "discriminator.variant": "patch_reflect",
        "discriminator.layers": len(list(filter(_LAYER.fullmatch, tensors))),
        "discriminator.width": first.shape[0],
        "discriminator.norm": "instance",
        "discriminator.sigmoid": True,
        "channels_in": first.shape[1],
    }


def _discriminator_layers(names: Collection[str], dropout: bool) -> dict[str, str]:
    last = sum(name.startswith("conv_") for name in names) - 1
    table = {"conv_0": "initial.0"}
    table |= {f"conv_{i}": f"model.{i - 1}.conv.0" for i in range(1, last)}
    return table | {f"conv_{last}": f"model.{last - 1}"}


FORMATS = {
    "a generator of DGAI": NamedFormat(
        system=SYSTEM,
        network="generator",
        choices={"generator.norm": ("instance",)},
        variants=("resnet9_reflect",),
        matches=lambda tensors: any(map(_BLOCK.fullmatch, tensors)),
        detect=_detect_generator,
        layers=_generator_layers,
    ),
    "a discriminator of DGAI": NamedFormat(
        system=SYSTEM,
        network="discriminator",
        choices={
            # With more layers, whose channels no longer grow, several have stride 1 there.
            "discriminator.layers": (1, 2, 3),
            "discriminator.norm": ("instance",),
            "discriminator.sigmoid": (True,),
            "discriminator.scales": (1,),
        },
        variants=("patch_reflect",),
        matches=lambda tensors: (
            "initial.0.weight" in tensors and any(map(_LAYER.fullmatch, tensors))
        ),
        detect=_detect_discriminator,
        layers=_discriminator_layers,
    ),
}
