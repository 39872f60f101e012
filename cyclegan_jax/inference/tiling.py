"""Generators applied to large images in bounded memory, a band of rows at a time.

The result is that of the generator itself, up to rounding. Norms use the statistics of the whole
image: a layer is computed for all bands before the next begins, and the means and variances of its
rows are combined in between. Maps are kept in the host's memory as convolutions left them; the norm
that follows is applied whenever they are read. Maps of the image's full size are not kept but
computed twice, once for their statistics and once for use. In a residual block three maps are
alive at a time.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cyclegan_jax.inference.bands import Finish, Map
from cyclegan_jax.models.forward import Activation, LayerFactory
from cyclegan_jax.models.layers import BatchNorm, InstanceNorm, LayerConfig, NoNorm
from cyclegan_jax.utils.errors import UserError

Array = jax.Array
Params = Any
MIN_ROWS = 16


def check_tiling(generator: Any, rows: int) -> None:
    """Raise UserError unless the generator can be applied in bands of `rows` rows."""
    name = type(generator).__name__
    if not getattr(generator, "supports_tiling", False):
        raise UserError(f"tile: {name} does not support tiling; expected a ResNet generator")
    norm = generator.config.build_norm(parent=None)
    if not isinstance(norm, NoNorm | InstanceNorm | BatchNorm):
        raise UserError(f"tile: {type(norm).__name__} does not support tiling")
    if rows < MIN_ROWS:
        raise UserError(f"tile: expected at least {MIN_ROWS} rows, got {rows}")


def translate_in_bands(generator: Any, params: Params, image: np.ndarray, rows: int) -> np.ndarray:
    """Apply a generator to one image, without dropout: `translator.translate` in bands.

    With two levels at most 3/4 H W width numbers are kept at a time, a map of half the size and one
    of a quarter, and computing a band takes a few arrays of rows x W x width.

    Args:
        generator: A generator that passes `check_tiling`.
        params: Its parameters.
        image: [H, W, C], uint8, uint16 or float in [-1, 1], of a size that the generator takes.
        rows: Rows of a map that are computed at a time, of large maps as of small ones.

    Returns:
        Float [H, W, C'] in [-1, 1].

    Raises:
        UserError: As `check_tiling`.
    """
    check_tiling(generator, rows)
    ops = BandOps(generator.config, params, image.shape[:2], rows - rows % 2)
    x = generator.forward(ops, Map(image))
    output = np.empty((*x.size, generator.channels), generator.config.param_dtype)
    x.write(ops.rows, output)
    return output


class BandOps:
    """The operations of `models.forward.Ops` on maps that are computed in bands.

    Every operation leaves its inputs as they are; a map's array is freed with its last reference.

    Attributes:
        config: Settings of all layers.
        params: Parameters of the network, or of a block.
        image_size: Height and width of the image.
        rows: Rows that are computed at a time.
    """

    def __init__(self, config: LayerConfig, params: Params, image_size: tuple[int, ...], rows: int):
        self.config = config
        self.params = params
        self.image_size = tuple(image_size)
        self.rows = rows

    def layer(
        self,
        x: Map | list[Map],
        conv: LayerFactory,
        name: str,
        *,
        norm: str | None = None,
        activation: Activation | None = None,
        pre_activation: Activation | None = None,
        dropout: float = 0.0,
    ) -> Map:
        """Implement `Ops.layer`; dropout is left out."""
        if isinstance(x, list) or pre_activation is not None:
            raise UserError("tile: skip connections and activations before a layer are unsupported")
        layer = conv(parent=None, normed=norm is not None)
        x = x.convolved(layer, self.params[name])
        if norm is None:
            return x if activation is None else x.then(Finish(None, activation))
        full_size = x.size == self.image_size
        into = None if full_size else np.empty((*x.size, layer.features), self.config.dtype)
        module = self.config.build_norm(parent=None)
        return x.normed(module, self.params.get(norm, {}), activation, self.rows, into)

    def block(self, x: Map, block: LayerFactory, name: str) -> Map:
        """Implement `Ops.block`."""
        ops = BandOps(self.config, self.params[name], self.image_size, self.rows)
        return block(parent=None).forward(ops, x)

    def add(self, x: Map, y: Map) -> Map:
        """Implement `Ops.add`."""
        if x.steps or x.kept.dtype != self.config.dtype:
            total = np.empty((*x.size, x.channels), self.config.dtype)
            x.write(self.rows, total)
        else:
            total = x.kept.copy()
        for band, values, _ in y.bands(self.rows):
            total[band] += values
        return Map(total)

    def output(self, x: Map) -> Map:
        """Implement `Ops.output`."""
        return x.then(Finish(None, _output))


def _output(x: Array) -> Array:
    return jnp.tanh(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
