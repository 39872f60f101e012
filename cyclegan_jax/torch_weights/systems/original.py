"""The PyTorch original, https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix."""

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
from cyclegan_jax.utils.errors import UserError

_BLOCK = re.compile(r"model\.([0-9]{1,2})\.conv_block\.([0-9])\.weight")
_PLACE = re.compile(r"model\.([0-9]{1,3})\.weight")

# The original's G_A maps A to B, and its D_A judges images of domain B.
SYSTEM = System(
    name="the PyTorch original",
    exported={
        "gen_ab": "latest_net_G_A.pth",
        "gen_ba": "latest_net_G_B.pth",
        "disc_a": "latest_net_D_B.pth",
        "disc_b": "latest_net_D_A.pth",
    },
)
_NORMS = ("instance", "batch", "none")
_GENERATOR = {"generator.norm": _NORMS}
_DISCRIMINATOR = {
    "discriminator.norm": _NORMS,
    "discriminator.sigmoid": (False,),
    "discriminator.scales": (1,),
}


def _resnet_matches(tensors: Tensors) -> bool:
    return any(map(_BLOCK.fullmatch, tensors))


def _detect_resnet(tensors: Tensors) -> dict[str, Any]:
    blocks = len({m[1] for m in map(_BLOCK.fullmatch, tensors) if m})
    published = blocks if blocks in (3, 6, 9) else 9
    return {
        **blocks_fields(f"resnet{published}", blocks, published),
        "generator.dropout": 0.5 if _has_dropout(tensors) else 0.0,
        "channels_out": kernel(tensors, f"model.{17 + blocks}").shape[0],
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
        "channels_out": kernel(tensors, "model.model.3").shape[1],
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


def patch_last(tensors: Tensors) -> int:
    """Return the place of the last of the 4x4 convolutions in one sequence; -1 without them."""
    first = tensors.get("model.0.weight")
    if first is None or first.ndim != 4 or first.shape[2:] != (4, 4):
        return -1
    names = [name for name, tensor in tensors.items() if tensor.ndim == 4]
    return max(int(m[1]) for m in map(_PLACE.fullmatch, names) if m)


def _patch_matches(tensors: Tensors) -> bool:
    last = patch_last(tensors)
    return last >= 5 and last % 3 == 2


def _detect_patch(tensors: Tensors) -> dict[str, Any]:
    return {
        "discriminator.variant": "patch",
        "discriminator.layers": (patch_last(tensors) - 2) // 3,
        **_detect_layers("discriminator", tensors, "model.0", "model.2"),
    }


def _patch_layers(names: Collection[str], dropout: bool) -> dict[str, str]:
    last = sum(name.startswith("conv_") for name in names) - 1
    table = {"conv_0": "model.0"}
    for i in range(1, last):
        table |= {f"conv_{i}": f"model.{3 * i - 1}", f"norm_{i}": f"model.{3 * i}"}
    return table | {f"conv_{last}": f"model.{3 * last - 1}"}


def _detect_layers(network: str, tensors: Tensors, first: str, normed: str) -> dict[str, Any]:
    """Return width, norm and channels from the first convolution and one before a norm."""
    first_kernel = kernel(tensors, first)
    if any(tensor.ndim == 1 and name.endswith(".weight") for name, tensor in tensors.items()):
        norm = "batch"
    else:
        norm = "instance" if f"{normed}.bias" in tensors else "none"
    return {
        f"{network}.width": first_kernel.shape[0],
        f"{network}.norm": norm,
        "channels_in": first_kernel.shape[1],
    }


def _has_dropout(tensors: Tensors) -> bool:
    """Return whether a dropout moves the second convolution of residual blocks by one place."""
    matches = ((_BLOCK.fullmatch(name), tensor) for name, tensor in tensors.items())
    return any(m is not None and m[2] == "6" and tensor.ndim == 4 for m, tensor in matches)


FORMATS = {
    "a ResNet generator of the PyTorch original": NamedFormat(
        system=SYSTEM,
        network="generator",
        choices=_GENERATOR,
        variants=("resnet3", "resnet6", "resnet9"),
        matches=_resnet_matches,
        detect=_detect_resnet,
        layers=_resnet_layers,
        has_dropout=_has_dropout,
    ),
    "a U-Net generator of the PyTorch original": NamedFormat(
        system=SYSTEM,
        network="generator",
        choices=_GENERATOR,
        variants=("unet128", "unet256"),
        matches=lambda tensors: "model.model.0.weight" in tensors,
        detect=_detect_unet,
        layers=_unet_layers,
    ),
    "a PatchGAN discriminator of the PyTorch original": NamedFormat(
        system=SYSTEM,
        network="discriminator",
        choices=_DISCRIMINATOR,
        variants=("patch",),
        matches=_patch_matches,
        detect=_detect_patch,
        layers=_patch_layers,
    ),
    "a pixel discriminator of the PyTorch original": NamedFormat(
        system=SYSTEM,
        network="discriminator",
        choices=_DISCRIMINATOR,
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
