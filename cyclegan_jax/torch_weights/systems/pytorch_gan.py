"""PyTorch-GAN, https://github.com/eriklindernoren/PyTorch-GAN (implementations/cyclegan)."""

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
from cyclegan_jax.torch_weights.systems.original import patch_last
from cyclegan_jax.utils.errors import UserError

_BLOCK = re.compile(r"model\.([0-9]{1,2})\.block\.[15]\.weight")
_BLOCKS = 9

SYSTEM = System(
    name="PyTorch-GAN",
    discriminators={"discriminator.variant": "patch_strided", "discriminator.layers": 4},
    # Its option --epoch 1 loads these.
    exported={
        "gen_ab": "G_AB_1.pth",
        "gen_ba": "G_BA_1.pth",
        "disc_a": "D_A_1.pth",
        "disc_b": "D_B_1.pth",
    },
    published={
        "generator.width": (64,),
        "discriminator.width": (64,),
        "discriminator.layers": (4,),
        "data.channels_a": (3,),
        "data.channels_b": (3,),
    },
)


def _generator_matches(tensors: Tensors) -> bool:
    return any(map(_BLOCK.fullmatch, tensors))


def _detect_generator(tensors: Tensors) -> dict[str, Any]:
    blocks = len({m[1] for m in map(_BLOCK.fullmatch, tensors) if m})
    first, last = kernel(tensors, "model.1"), kernel(tensors, f"model.{19 + blocks}")
    channels = (first.shape[1], last.shape[0])
    if channels != (3, 3):
        # Its stem and its last layer pad by as many pixels as an image has channels.
        raise UserError(
            f"expected 3 channels in and out, for which PyTorch-GAN keeps the size of images, got "
            f"{channels[0]} and {channels[1]}"
        )
    return {
        **blocks_fields("resnet9_resize", blocks, _BLOCKS),
        "generator.width": first.shape[0],
        "generator.norm": "instance",
        "channels_in": 3,
        "channels_out": 3,
    }


def _generator_layers(names: Collection[str], dropout: bool) -> dict[str, str]:
    """One sequence, in which padding, upsampling, norms and activations count as well."""
    blocks = sum(name.endswith("/conv_0") for name in names)
    return {
        "stem": "model.1",
        "down_0": "model.4",
        "down_1": "model.7",
        **{
            f"block_{i}/conv_{j}": f"model.{10 + i}.block.{1 + 4 * j}"
            for i in range(blocks)
            for j in range(2)
        },
        "up_0": f"model.{11 + blocks}",
        "up_1": f"model.{15 + blocks}",
        "head": f"model.{19 + blocks}",
    }


def _discriminator_matches(tensors: Tensors) -> bool:
    last = patch_last(tensors)
    return last >= 3 and last % 3 == 0


def _detect_discriminator(tensors: Tensors) -> dict[str, Any]:
    first = kernel(tensors, "model.0")
    return {
        "discriminator.variant": "patch_strided",
        "discriminator.layers": patch_last(tensors) // 3,
        "discriminator.width": first.shape[0],
        "discriminator.norm": "instance",
        "channels_in": first.shape[1],
    }


def _discriminator_layers(names: Collection[str], dropout: bool) -> dict[str, str]:
    """As the original's, but with padding in the place of the layer of stride 1."""
    last = sum(name.startswith("conv_") for name in names) - 1
    table = {"conv_0": "model.0"}
    table |= {f"conv_{i}": f"model.{3 * i - 1}" for i in range(1, last)}
    return table | {f"conv_{last}": f"model.{3 * last}"}


FORMATS = {
    "a generator of PyTorch-GAN": NamedFormat(
        system=SYSTEM,
        network="generator",
        choices={"generator.norm": ("instance",)},
        variants=("resnet9_resize",),
        matches=_generator_matches,
        detect=_detect_generator,
        layers=_generator_layers,
        transposed=False,
    ),
    "a discriminator of PyTorch-GAN": NamedFormat(
        system=SYSTEM,
        network="discriminator",
        choices={
            "discriminator.norm": ("instance",),
            "discriminator.sigmoid": (False,),
            "discriminator.scales": (1,),
        },
        variants=("patch_strided",),
        matches=_discriminator_matches,
        detect=_detect_discriminator,
        layers=_discriminator_layers,
    ),
}
