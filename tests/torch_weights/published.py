"""Networks of other published programs with random parameters, and files as these write them.

The modules of PyTorch-GAN and DGAI have the programs' state dicts. Keras and Paddle files are
written from the networks of `tests/torch_recipes.py`.
"""

import itertools
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from configs import default
from tests import torch_recipes
from tests.parity import change, randomise

Norm = nn.InstanceNorm2d


class PyTorchGANBlock(nn.Module):
    """Residual block, whose layers are called `block`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), Norm(channels)]
        other = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), Norm(channels)]
        self.block = nn.Sequential(*half, nn.ReLU(), *other)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        return x + self.block(x)


class Sequence(nn.Module):
    """A network in one sequence, called `model`."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to an image or to scores."""
        return self.model(x)


def pytorch_gan_generator(width: int, blocks: int, channels: int = 3) -> nn.Module:
    """Build PyTorch-GAN's generator."""
    w = width
    layers = [nn.ReflectionPad2d(channels), nn.Conv2d(channels, w, 7), Norm(w), nn.ReLU()]
    for a, b in ((w, 2 * w), (2 * w, 4 * w)):
        layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), Norm(b), nn.ReLU()]
    layers += [PyTorchGANBlock(4 * w) for _ in range(blocks)]
    for a, b in ((4 * w, 2 * w), (2 * w, w)):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 3, padding=1), Norm(b), nn.ReLU()]
    return Sequence(*layers, nn.ReflectionPad2d(channels), nn.Conv2d(w, channels, 7), nn.Tanh())


def pytorch_gan_discriminator(width: int, layers: int, channels: int = 3) -> nn.Module:
    """Build PyTorch-GAN's discriminator, which has four layers."""
    sequence: list[nn.Module] = []
    widths = [width * 2**i for i in range(layers)]
    for before, after in zip([channels, *widths], widths, strict=False):
        sequence += [nn.Conv2d(before, after, 4, stride=2, padding=1)]
        sequence += [Norm(after)] if before != channels else []
        sequence += [nn.LeakyReLU(0.2)]
    last = nn.Conv2d(widths[-1], 1, 4, padding=1)
    return Sequence(*sequence, nn.ZeroPad2d((1, 0, 1, 0)), last)


def _reflect(before: int, after: int, size: int, stride: int, padding: int) -> nn.Module:
    return nn.Conv2d(before, after, size, stride, padding, padding_mode="reflect")


class DGAIPart(nn.Module):
    """A convolution, its norm and its activation, called `conv`."""

    def __init__(self, conv: nn.Module, channels: int, activation: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv, Norm(channels), activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C', H', W']."""
        return self.conv(x)


class DGAIBlock(nn.Module):
    """Residual block, whose layers are called `block`."""

    def __init__(self, c: int) -> None:
        super().__init__()
        activations = (nn.ReLU(), nn.Identity())
        self.block = nn.Sequential(*(DGAIPart(_reflect(c, c, 3, 1, 1), c, a) for a in activations))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        return x + self.block(x)


class DGAIGenerator(nn.Module):
    """DGAI's generator."""

    def __init__(self, width: int, blocks: int, channels: int = 3) -> None:
        super().__init__()
        w = [width, 2 * width, 4 * width]
        self.initial = nn.Sequential(_reflect(channels, width, 7, 1, 3), Norm(width), nn.ReLU())
        self.down_blocks = nn.ModuleList(
            DGAIPart(_reflect(a, b, 3, 2, 1), b, nn.ReLU()) for a, b in itertools.pairwise(w)
        )
        self.res_blocks = nn.Sequential(*(DGAIBlock(w[2]) for _ in range(blocks)))
        self.up_blocks = nn.ModuleList(
            DGAIPart(nn.ConvTranspose2d(a, b, 3, 2, 1, 1), b, nn.ReLU())
            for a, b in itertools.pairwise(w[::-1])
        )
        self.last = _reflect(width, channels, 7, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        x = self.initial(x)
        for part in (*self.down_blocks, self.res_blocks, *self.up_blocks):
            x = part(x)
        return self.last(x).tanh()


class DGAIDiscriminator(nn.Module):
    """DGAI's discriminator, with strides 2, but 1 in the last layers of `model`."""

    def __init__(self, width: int, layers: int, channels: int = 3) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(layers + 1)]
        self.initial = nn.Sequential(_reflect(channels, width, 4, 2, 1), nn.LeakyReLU(0.2))
        parts = [
            DGAIPart(_reflect(a, b, 4, 1 if b == widths[-1] else 2, 1), b, nn.LeakyReLU(0.2))
            for a, b in itertools.pairwise(widths)
        ]
        self.model = nn.Sequential(*parts, _reflect(widths[-1], 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to scores."""
        return self.model(self.initial(x)).sigmoid()


def narrow(**fields: Any) -> Any:
    """Return a configuration of narrow networks."""
    return change(
        default.get_config(), **({"generator__width": 2, "discriminator__width": 2} | fields)
    )


def recipe_network(kind: str, config: Any, size: int = 32, seed: int = 0) -> nn.Module:
    """Return a network of `torch_recipes` with random parameters."""
    if kind == "generator":
        module = torch_recipes.build_generator(config, 3, 3)
    else:
        module = torch_recipes.build_discriminator(config, 3, size)
    randomise(module, seed)
    return module


def write_keras(path: Path, module: nn.Module, first: int = 1) -> Path:
    """Write a network of `torch_recipes` as Keras's `model.save_weights` does.

    A generator is a flat model; a discriminator is one layer `model_1` of another. Layers of each
    kind are numbered from `first`.
    """
    counts = dict.fromkeys(("conv2d", "conv2d_transpose", "instance_normalization", "dense"), first)
    weights: dict[str, list[tuple[str, np.ndarray]]] = {"input_1": []}
    generator = hasattr(module, "stem")
    for name, tensors in _by_module(module).items():
        if "norm" in name:
            kind, leaves = "instance_normalization", {"gamma": "weight", "beta": "bias"}
        else:
            kind, leaves = "conv2d", {"kernel": "weight", "bias": "bias"}
            kind = "conv2d_transpose" if "transposed" in name else kind
            kind = "dense" if "dense" in name else kind
        layer = f"{kind}_{counts[kind]}"
        counts[kind] += 1
        group = weights.setdefault(layer if generator else "model_1", [])
        for leaf, ours in leaves.items():
            array = tensors[ours]
            if array.ndim == 4:  # [out, in, h, w], transposed [in, out, h, w]
                array = array.transpose(2, 3, 1, 0)
            if kind == "dense" and leaf == "kernel":
                array = array.reshape(-1, 1)
            group.append((f"{layer}/{leaf}:0", array))
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([name.encode() for name in weights])
        for layer, arrays in weights.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([name.encode() for name, _ in arrays])
            for name, array in arrays:
                group[name] = array
    return path


def paddle_state(module: nn.Module) -> dict[str, np.ndarray]:
    """Return the state dict of a network of `torch_recipes` as Paddle names it."""
    state: dict[str, np.ndarray] = {}
    generator = hasattr(module, "stem")
    place = 2 if generator else -1  # of the last layer; a stem has a norm and an activation
    for name, tensors in _by_module(module).items():
        norm = "norm" in name
        if name in ("stem", "stem_norm"):
            prefix = "model.1" if norm else "model.0"
        else:
            place += not norm
            # The last layer has no norm beside it.
            alone = name == "head" or (not generator and name == list(_by_module(module))[-1])
            prefix = f"model.{place}" if alone else f"model.{place}.model.{int(norm)}"
        for leaf, array in tensors.items():
            state[f"{prefix}.{'scale' if norm and leaf == 'weight' else leaf}"] = array
    return state


def write_paddle(path: Path, state: Mapping[str, np.ndarray], protocol: int = 4) -> Path:
    """Write a state dict as `paddle.save` does, with the table of names beside it."""
    names = {name: f"{name}_0" for name in state}
    value = {**state, "StructuredToParameterName@@": names}
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def _by_module(module: nn.Module) -> dict[str, dict[str, np.ndarray]]:
    result: dict[str, dict[str, np.ndarray]] = {}
    for key, tensor in module.state_dict().items():
        name, _, leaf = key.rpartition(".")
        result.setdefault(name, {})[leaf] = tensor.numpy()
    return result


def random_network(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw the parameters of a network and return it."""
    randomise(module, seed)
    return module


torch.set_num_threads(1)
