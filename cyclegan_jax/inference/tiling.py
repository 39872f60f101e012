"""ResNet generators applied to large images in bounded memory, a band of rows at a time.

The result is that of the generator itself, up to rounding. Norms use the statistics of the whole
image: a layer is computed for all bands before the next begins, and the means and variances of
its rows are put together in between. Maps are kept in the host's memory as convolutions made them;
the norm that follows is applied whenever they are read. The two largest, after the first layer and
before the last, are not kept but computed twice: once for their statistics and once for use. In the
trunk two maps are alive at a time.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cyclegan_jax.inference.bands import Finish, Map
from cyclegan_jax.models.generators import Generator, ResNetGenerator
from cyclegan_jax.models.layers import Conv, UpConv
from cyclegan_jax.utils.errors import UserError

Array = jax.Array
Params = Any
FEWEST_ROWS = 16


def check_tiles(generator: Generator, rows: int) -> None:
    """Raises UserError unless the generator can be applied in bands of so many rows."""
    if not isinstance(generator, ResNetGenerator):
        raise UserError("tiles need a ResNet: a U-Net keeps maps of all sizes until its end")
    if rows < FEWEST_ROWS:
        raise UserError(f"tiles of {rows} rows; at least {FEWEST_ROWS} were expected")


def translate_in_bands(
    generator: Generator, params: Params, image: np.ndarray, rows: int
) -> np.ndarray:
    """One generator's output for one image, without dropout: `inference.translate` in bands.

    With two levels at most 3/4 H W width numbers are kept at a time, a map of half the size and one
    of a quarter, and computing a band takes a few arrays of rows x W x width.

    Args:
        generator: a ResNet.
        params: its parameters.
        image: [H, W, C], uint8, uint16 or float in [-1, 1]; H and W that the generator takes.
        rows: of a map that are computed at a time, of large maps as of small ones.

    Returns:
        Float [H, W, C'] in [-1, 1].

    Raises:
        UserError: as `check_tiles`.
    """
    check_tiles(generator, rows)
    assert isinstance(generator, ResNetGenerator)
    style = generator.style
    rows -= rows % 2
    bias = generator.outer_bias and not style.norm_replaces_bias
    widths = [generator.width * 2**i for i in range(generator.levels + 1)]
    end = functools.partial(Conv, size=7, style=style, padding=3, pad_mode="reflect")

    def layer(x: Map, conv: Conv | UpConv, name: str, *, keep: bool) -> Map:
        x = x.convolved(conv, params[name])
        into = np.empty((*x.size, conv.features), style.dtype) if keep else None
        return x.normed(style, params.get(f"{name}_norm", {}), generator.activation, rows, into)

    x = layer(Map(image), end(widths[0], use_bias=bias), "stem", keep=False)
    for i, features in enumerate(widths[1:]):
        down = generator.down(features, style=style, use_bias=bias)
        x = layer(x, down, f"down_{i}", keep=True)
    x.write(rows, x.kept)
    x = Map(x.kept)
    _apply_blocks(generator, params, x.kept, rows)
    for i, features in enumerate(reversed(widths[:-1])):
        up = generator.up(features, style=style, use_bias=bias)
        x = layer(x, up, f"up_{i}", keep=i + 1 < generator.levels)
    x = x.convolved(end(generator.channels), params["head"]).then(Finish(None, _to_image))
    output = np.empty((*x.size, generator.channels), style.param_dtype)
    x.write(rows, output)
    return output


def _apply_blocks(generator: ResNetGenerator, params: Params, trunk: np.ndarray, rows: int) -> None:
    """Puts the trunk [H, W, C] through the residual blocks, in place."""
    style = generator.style
    bias = not style.norm_replaces_bias
    conv = Conv(trunk.shape[2], 3, style, padding=1, pad_mode="reflect", use_bias=bias)
    branch = np.empty_like(trunk)
    for i in range(generator.blocks):
        block = params[f"block_{i}"]
        x = Map(trunk)
        for j in range(generator.block_convolutions):
            activation = generator.activation if j == 0 else None
            x = x.convolved(conv, block[f"conv_{j}"])
            x = x.normed(style, block.get(f"norm_{j}", {}), activation, rows, branch)
        for band, values, _ in x.bands(rows):
            trunk[band] += values


def _to_image(x: Array) -> Array:
    return jnp.tanh(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
