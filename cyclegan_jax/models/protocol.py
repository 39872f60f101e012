"""Interface of generators and discriminators to training and inference."""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
from flax import linen as nn

from cyclegan_jax.models.forward import FlaxOps, Ops, X
from cyclegan_jax.models.layers import mixes_images
from cyclegan_jax.ops.forms import chosen_form, default_form
from cyclegan_jax.utils.errors import UserError

Array = jax.Array
Params = Any


class Generator(nn.Module):
    """Base class of generators: Flax modules that map images to images.

    A subclass implements `__call__(self, x, keys=None)`, from float [B, H, W, C] in [-1, 1] to
    [B, H, W, channels] in [-1, 1] of at least float32. `keys`, [B], are PRNG keys of the images in
    training, for dropout and the like; None elsewhere. It overrides the attributes below, as class
    attributes or properties, where their defaults do not hold.

    A generator written this way trains, translates and is exported to StableHLO and safetensors.
    Those that derive from `ForwardGenerator` are also exported to ONNX and, if they say so, applied
    in tiles. Registry entries are called with `channels` and `config` (a `LayerConfig`), and with
    `width`, `blocks`, `dropout` and `remat` if they take them.

    Attributes:
        channels: Channels of the output.
        granularity: Height and width must be multiples of this.
        smallest: Least height and width.
        supports_tiling: Whether `inference.tiling` can apply it band by band.
    """

    channels: int
    granularity: ClassVar[Any] = 1
    smallest: ClassVar[Any] = 1
    supports_tiling: ClassVar[Any] = False

    @property
    def mixes_images(self) -> bool:
        """True if an output depends on other images of the batch, as with batch norm."""
        return _config_mixes_images(self)


class ForwardGenerator(Generator):
    """Generator whose layers are written once, in `forward`, for all that runs them.

    Subclasses have the fields `config` and `remat`.
    """

    def forward(self, ops: Ops[X], x: X) -> X:
        """Apply the network by means of `ops`."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, x: Array, keys: Array | None = None) -> Array:
        """Map [B, H, W, C] in [-1, 1] to [B, H, W, channels] in (-1, 1), at least float32."""
        ops = FlaxOps(self, keys, remat=getattr(self, "remat", False))
        return self.forward(ops, x)


class Discriminator(nn.Module):
    """Base class of discriminators: Flax modules that map images to scores.

    A subclass implements `__call__(self, x)`, from float [B, H, W, C] in [-1, 1] to scores
    [B, H', W', 1] of at least float32, or to a tuple of such maps. Registry entries are called with
    `config` (a `LayerConfig`), and with `width`, `layers` and `sigmoid` if they take them.

    Attributes:
        smallest: Least height and width of an image that gets a score.
    """

    smallest: ClassVar[Any] = 1

    @property
    def mixes_images(self) -> bool:
        """True if a score depends on other images of the batch, as with batch norm."""
        return _config_mixes_images(self)


def _config_mixes_images(network: nn.Module) -> bool:
    config = getattr(network, "config", None)
    return config is not None and mixes_images(config)


def check_generator_size(generator: Any, height: int, width: int) -> None:
    """Raise UserError unless the generator takes images of this height and width."""
    unit, smallest = generator.granularity, max(generator.smallest, generator.granularity)
    if height % unit or width % unit or min(height, width) < smallest:
        raise UserError(
            f"generator: expected sides that are multiples of {unit} and at least {smallest}, got "
            f"images of {width}x{height}"
        )


def check_discriminator_size(discriminator: Any, height: int, width: int) -> None:
    """Raise UserError unless an image of this height and width gets at least one score."""
    smallest = discriminator.smallest
    if min(height, width) < smallest:
        raise UserError(
            f"discriminator: expected sides of at least {smallest}, got images of {width}x{height} "
            "(fewer discriminator.layers or discriminator.scales lower this)"
        )


def features(
    network: nn.Module, params: Params, x: Array, layers: Sequence[str], keys: Array | None = None
) -> dict[str, Array]:
    """Compute a network's intermediate feature maps, as contrastive and perceptual losses use them.

    Args:
        network: Any Flax module that takes images, such as a generator.
        params: Its parameters.
        x: Float [B, H, W, C] in [-1, 1].
        layers: Names of submodules, as in the parameters: "stem", "down_0", "block_3/conv_1".
        keys: As in `Generator`.

    Returns:
        {name: output of the submodule}.

    Raises:
        KeyError: The network has no submodule of that name.
    """
    args = (x,) if keys is None else (x, keys)
    # Where a kernel computes several layers at once, their outputs do not exist.
    with default_form("direct" if chosen_form() == "triton" else None):
        _, captured = network.apply(
            {"params": params},
            *args,
            capture_intermediates=lambda module, _: "/".join(module.path) in layers,
            mutable=["intermediates"],
        )
    result = {}
    for name in layers:
        node = captured["intermediates"]
        for part in name.split("/"):
            node = node[part]
        result[name] = node["__call__"][0]
    return result
