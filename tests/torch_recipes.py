"""Networks of the other systems in PyTorch, written plainly.

These are the compact horse2zebra (Paddle), faces (PyTorch), firewatch (Keras) and monet2photo
(PyTorch). Layers have the names of the JAX program, so that parameters map by name. Images are
[B, C, H, W] in [-1, 1]; a configuration is any object with the attributes of `configs/default.py`.
"""

import functools
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import torch_networks
from benchmarks.torch_cyclegan import Draws, Trainer, adversarial

Layers = OrderedDict[str, nn.Module]
MakeNorm = Callable[[int], nn.Module]


def make_norm(kind: str) -> MakeNorm:
    """Return a constructor of instance norm, with or without scale and bias."""
    if kind == "instance_affine_std":
        return KerasInstanceNorm2d
    affine = {"instance": False, "instance_affine": True}[kind]
    return functools.partial(nn.InstanceNorm2d, affine=affine)


class KerasInstanceNorm2d(nn.Module):
    """Instance norm of keras-contrib: (x - mean) / (deviation + 1e-5) * weight + bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        deviation = x.std((2, 3), keepdim=True, correction=0)
        normed = (x - x.mean((2, 3), keepdim=True)) / (deviation + 1e-5)
        return normed * self.weight[:, None, None] + self.bias[:, None, None]


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: ceil(side / stride) outputs, more at the end."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C', ceil(H / stride), ceil(W / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = []
        for side in (x.shape[3], x.shape[2]):
            outputs = math.ceil(side / stride)
            total = max((outputs - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(x, pads))


class DropLast(nn.Module):
    """Crop of the last row and column: SAME for a transposed 3x3 convolution of stride 2."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, H - 1, W - 1]."""
        return x[:, :, :-1, :-1]


class Block(nn.Sequential):
    """Layers with a skip connection."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        return x + super().forward(x)


def sequence(**layers: nn.Module) -> nn.Sequential:
    """Build a sequence of named layers."""
    return nn.Sequential(OrderedDict(layers))


def compact_generator(
    channels_in: int, channels_out: int, width: int, blocks: int, norm: MakeNorm
) -> nn.Module:
    """Build horse2zebra_224: single-convolution blocks, LeakyReLU, biases only in blocks."""
    layers: Layers = OrderedDict()

    def norm_and_activation(name: str, channels: int) -> None:
        layers[f"{name}_norm"] = norm(channels)
        layers[f"{name}_activation"] = nn.LeakyReLU(0.2)

    layers["stem_pad"] = nn.ReflectionPad2d(3)
    layers["stem"] = nn.Conv2d(channels_in, width, 7, bias=False)
    norm_and_activation("stem", width)
    for i, c in enumerate((width, 2 * width)):
        layers[f"down_{i}"] = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1, bias=False)
        norm_and_activation(f"down_{i}", 2 * c)
    for i in range(blocks):
        layers[f"block_{i}"] = Block(
            OrderedDict(
                pad=nn.ReflectionPad2d(1),
                conv_0=nn.Conv2d(4 * width, 4 * width, 3),
                norm_0=norm(4 * width),
                activation=nn.LeakyReLU(0.2),
            )
        )
    for i, c in enumerate((4 * width, 2 * width)):
        layers[f"up_{i}"] = sequence(
            transposed=nn.ConvTranspose2d(c, c // 2, 3, stride=2, bias=False), crop=DropLast()
        )
        norm_and_activation(f"up_{i}", c // 2)
    layers["head_pad"] = nn.ReflectionPad2d(3)
    layers["head"] = nn.Conv2d(width, channels_out, 7)
    layers["tanh"] = nn.Tanh()
    return nn.Sequential(layers)


def resnet_generator(
    channels_in: int,
    channels_out: int,
    width: int,
    blocks: int,
    norm: MakeNorm,
    levels: int,
    down: Callable[[int], nn.Module],
    up: Callable[[int], nn.Module],
) -> nn.Module:
    """Build the published generator with other downsampling and upsampling layers.

    `down` builds a layer that doubles a number of channels, `up` one that halves it.
    """
    layers: Layers = OrderedDict()

    def norm_and_activation(name: str, channels: int) -> None:
        layers[f"{name}_norm"] = norm(channels)
        layers[f"{name}_activation"] = nn.ReLU()

    layers["stem_pad"] = nn.ReflectionPad2d(3)
    layers["stem"] = nn.Conv2d(channels_in, width, 7)
    norm_and_activation("stem", width)
    c = width
    for i in range(levels):
        layers[f"down_{i}"] = down(c)
        c *= 2
        norm_and_activation(f"down_{i}", c)
    for i in range(blocks):
        layers[f"block_{i}"] = Block(
            OrderedDict(
                pad_0=nn.ReflectionPad2d(1),
                conv_0=nn.Conv2d(c, c, 3),
                norm_0=norm(c),
                activation=nn.ReLU(),
                pad_1=nn.ReflectionPad2d(1),
                conv_1=nn.Conv2d(c, c, 3),
                norm_1=norm(c),
            )
        )
    for i in range(levels):
        layers[f"up_{i}"] = up(c)
        c //= 2
        norm_and_activation(f"up_{i}", c)
    layers["head_pad"] = nn.ReflectionPad2d(3)
    layers["head"] = nn.Conv2d(width, channels_out, 7)
    layers["tanh"] = nn.Tanh()
    return nn.Sequential(layers)


def down_zero(channels: int) -> nn.Module:
    """Build a layer with one pixel of zeros on every side."""
    return nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)


def down_reflect(channels: int) -> nn.Module:
    """Build a layer with one reflected pixel on every side."""
    return nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, padding_mode="reflect")


def down_same(channels: int) -> nn.Module:
    """Build a layer with zeros only at the end for even sizes."""
    return SameConv2d(channels, 2 * channels, 3, stride=2)


class ResizeConv2d(nn.Conv2d):
    """Nearest-neighbour upsampling by 2, then a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C', 2H, 2W]."""
        return super().forward(functional.interpolate(x, scale_factor=2, mode="nearest"))


def up_published(channels: int) -> nn.Module:
    """Build a transposed convolution without the first row and column."""
    up = nn.ConvTranspose2d(channels, channels // 2, 3, stride=2, padding=1, output_padding=1)
    return sequence(transposed=up)


def up_same(channels: int) -> nn.Module:
    """Build a transposed convolution without the last row and column."""
    up = nn.ConvTranspose2d(channels, channels // 2, 3, stride=2)
    return sequence(transposed=up, crop=DropLast())


def up_resize_zero(channels: int) -> nn.Module:
    """Build upsampling and a convolution with zero padding."""
    return ResizeConv2d(channels, channels // 2, 3, padding=1)


def up_resize_reflect(channels: int) -> nn.Module:
    """Build upsampling and a convolution with reflection padding."""
    return ResizeConv2d(channels, channels // 2, 3, padding=1, padding_mode="reflect")


RESNETS: dict[str, dict[str, Any]] = {
    "resnet9_reflect": {"levels": 2, "down": down_reflect, "up": up_published},
    "resnet9_same": {"levels": 2, "down": down_same, "up": up_same},
    "resnet9_same_resize": {"levels": 2, "down": down_same, "up": up_resize_reflect},
    "resnet9_same_deep": {"levels": 3, "down": down_same, "up": up_same},
    "resnet9_resize": {"levels": 2, "down": down_zero, "up": up_resize_zero},
}


def build_generator(config: Any, channels_in: int, channels_out: int) -> nn.Module:
    """Build the generator of `config.generator`."""
    g = config.generator
    if g.variant in RESNETS:
        blocks = 9 if g.blocks is None else g.blocks
        return resnet_generator(
            channels_in, channels_out, g.width, blocks, make_norm(g.norm), **RESNETS[g.variant]
        )
    if g.variant == "resnet7_single":
        blocks = 7 if g.blocks is None else g.blocks
        return compact_generator(channels_in, channels_out, g.width, blocks, make_norm(g.norm))
    return torch_networks.build_generator(config, channels_in, channels_out)


def discriminator_layers(
    channels: int,
    width: int,
    strides: list[int],
    norm: MakeNorm,
    normed_from: int,
    make_conv: Callable[[int, int, int, int], nn.Module],
) -> tuple[Layers, int]:
    """Build all layers but the last; return them and their output channels.

    `make_conv` builds a 4x4 convolution from (index, channels in, channels out, stride); the first
    one with a norm has the index `normed_from`.
    """
    network: Layers = OrderedDict()
    before = channels
    for i, stride in enumerate(strides):
        after = width * min(2**i, 8)
        network[f"conv_{i}"] = make_conv(i, before, after, stride)
        if i >= normed_from:
            network[f"norm_{i}"] = norm(after)
        network[f"activation_{i}"] = nn.LeakyReLU(0.2)
        before = after
    return network, before


def build_discriminator(config: Any, channels: int, size: int = 256) -> nn.Module:
    """Build the discriminator of `config.discriminator` for images of size x size.

    The size only matters for a dense unit.
    """
    d = config.discriminator
    if d.scales == 2:
        return MultiScale(
            build_single(config, channels, size), build_single(config, channels, size // 2)
        )
    return build_single(config, channels, size)


def build_single(config: Any, channels: int, size: int) -> nn.Module:
    """Build the discriminator of one scale."""
    d = config.discriminator
    if d.variant in ("patch", "pixel"):
        return torch_networks.build_discriminator(config, channels)
    make = functools.partial(discriminator_layers, channels, d.width, norm=make_norm(d.norm))
    published_strides = [2] * d.layers + [1]
    if d.variant == "patch_normed":
        network, c = make(
            published_strides,
            normed_from=0,
            make_conv=lambda i, b, a, s: nn.Conv2d(b, a, 4, s, padding=1, bias=i == 0),
        )
        network[f"conv_{d.layers + 1}"] = nn.Conv2d(c, 1, 4, padding=1)
    elif d.variant == "patch_reflect":
        reflect = functools.partial(nn.Conv2d, kernel_size=4, padding=1, padding_mode="reflect")
        network, c = make(
            published_strides, normed_from=1, make_conv=lambda i, b, a, s: reflect(b, a, stride=s)
        )
        network[f"conv_{d.layers + 1}"] = reflect(c, 1)
    elif d.variant == "patch_strided":
        network, c = make(
            [2] * d.layers,
            normed_from=1,
            make_conv=lambda i, b, a, s: nn.Conv2d(b, a, 4, s, padding=1),
        )
        network["more_pad"] = nn.ZeroPad2d((1, 0, 1, 0))
        network[f"conv_{d.layers}"] = nn.Conv2d(c, 1, 4, padding=1)
    else:
        network, c = make(
            [2] * d.layers, normed_from=1, make_conv=lambda i, b, a, s: SameConv2d(b, a, 4, s)
        )
        if d.variant == "patch_same":
            network[f"conv_{d.layers}"] = SameConv2d(c, 1, 4)
        else:
            # A dense unit on the flattened map, whose weights have the layout of the map.
            network["dense"] = nn.Conv2d(c, 1, size // 2**d.layers)
    if d.sigmoid:
        network["sigmoid"] = nn.Sigmoid()
    return nn.Sequential(network)


class MultiScale(nn.Module):
    """Two discriminators, for the image and for the image at half its size."""

    def __init__(self, full: nn.Module, half: nn.Module) -> None:
        super().__init__()
        self.scale_0, self.scale_1 = full, half

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, C, H, W] to the scores of both, the full size first."""
        return self.scale_0(x), self.scale_1(functional.avg_pool2d(x, 2))


def count_parameters(network: nn.Module) -> int:
    """Count the trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters())


class Counter:
    """Steps of all models that are compiled with one optimiser."""

    steps = 0


class KerasAdam:
    """Adam of Keras 2.2.4 for one compiled model, whose moments are its own."""

    def __init__(self, parameters: list[nn.Parameter], counter: Counter, config: Any) -> None:
        self.parameters, self.counter = parameters, counter
        self.rate = config.learning_rate
        self.betas = config.beta1, config.beta2
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]

    def minimise(self, loss: Tensor) -> None:
        """Take one step."""
        self.counter.steps += 1
        t, (b1, b2) = self.counter.steps, self.betas
        rate = self.rate * math.sqrt(1 - b2**t) / (1 - b1**t)
        gradients = torch.autograd.grad(
            loss, self.parameters, allow_unused=True, materialize_grads=True
        )
        with torch.no_grad():
            for p, g, (m, v) in zip(self.parameters, gradients, self.moments, strict=True):
                m.mul_(b1).add_(g, alpha=1 - b1)
                v.mul_(b2).addcmul_(g, g, value=1 - b2)
                p.sub_(rate * m / (v.sqrt() + 1e-7))


class KerasTrainer(Trainer):
    """The updates of firewatch's code: compiled models that share two optimisers.

    A discriminator takes a step on real images and one on generated images; the identity loss is a
    step of each generator after that of both.
    """

    def __init__(self, *args: Any, **fields: Any) -> None:
        super().__init__(*args, **fields)
        of_discriminators, of_generators = Counter(), Counter()
        models = {
            "disc_a": ("disc_a", of_discriminators),
            "disc_b": ("disc_b", of_discriminators),
            "generators": ("gen", of_generators),
            "identity_ab": ("gen_ab", of_generators),
            "identity_ba": ("gen_ba", of_generators),
        }
        self.models = {
            model: KerasAdam(self._parameters(network), counter, self.config.optimizer)
            for model, (network, counter) in models.items()
        }

    def _update_discriminators(
        self, real: dict[str, Tensor], fake: dict[str, Tensor], draws: Draws
    ) -> dict[str, Tensor]:
        label = self.config.loss.real_label
        shown = {
            "a": self.pools["a"].query(fake["a"], draws.pool_a),
            "b": self.pools["b"].query(fake["b"], draws.pool_b),
        }
        for _ in range(self.config.discriminator_updates):
            losses = {f"discriminators/{domain}": torch.zeros(()) for domain in ("a", "b")}
            for images, is_real in ((real, True), (shown, False)):
                for domain in ("a", "b"):
                    scores = self.networks[f"disc_{domain}"](images[domain])
                    loss = 0.5 * adversarial(scores, is_real, "lsgan", label)
                    losses[f"discriminators/{domain}"] = (
                        losses[f"discriminators/{domain}"] + loss.detach()
                    )
                    self.models[f"disc_{domain}"].minimise(loss)
        return losses

    def _update_generators(
        self, real: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        for _ in range(self.config.generator_updates):
            terms, fake = self.generator_losses(real, with_identity=False)
            losses = {f"generators/{term}": value.detach() for term, value in terms.items()}
            self.models["generators"].minimise(torch.stack(list(terms.values())).sum())
        weights = self.config.loss
        if weights.identity and self.batches % weights.identity_every_steps == 0:
            for direction, domain in (("ab", "b"), ("ba", "a")):
                image = self.networks[f"gen_{direction}"](real[domain])
                weight = weights.identity * getattr(weights, f"cycle_{domain}")
                loss = weight * functional.l1_loss(image, real[domain])
                losses[f"identity/{domain}"] = loss.detach()
                self.models[f"identity_{direction}"].minimise(loss)
        return losses, {domain: image.detach() for domain, image in fake.items()}
