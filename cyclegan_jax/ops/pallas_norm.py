"""Instance norm with what surrounds it, in one kernel for NVIDIA GPUs (Pallas, Triton).

What XLA compiles of a norm reads a feature map twice forward, and the map and its gradient twice
each backward: sums first, then values. Here each program of the kernel loads an image's map of a
few channels into registers, where it stays until the result is written. The activation, the sum
with a residual stream and the reflection padding of the next convolution, which XLA cannot fuse
with a kernel of ours, are part of it, forward and backward.

Programs on neighbouring channels share the 32-byte sectors of memory if a program has fewer
channels than fill one: a 64x64 map in bfloat16 has 8 channels, 16 bytes, so that the second of two
programs finds its half in the L2 cache. Pixels at the border are read once more backward, for the
gradient of the padding.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from cyclegan_jax.ops.padding import pad_reflected

# Elements of a map that 16 warps hold without spilling registers, backward with its gradient.
# Compiled for an sm_90 by ptxas: 128 registers, at most 24 bytes spilled.
LARGEST = 64 * 64 * 8
ELEMENTS_PER_WARP = 2048
# Channels that fill a sector in bfloat16; with more, small batches have too few programs.
MOST_CHANNELS = 16
# Fewer would use less than half of each sector.
LEAST_BYTES = 16

# For tests without a GPU: whether kernels are interpreted rather than compiled.
interpreted = False


class Settings(NamedTuple):
    """Static properties of a kernel.

    Attributes:
        epsilon: Added to the variance.
        slope: Factor of the activation below zero: 0 for ReLU, 1 for none.
        padding: Pixels of reflection on each side of the result.
        residual_padding: Pixels on each side of the residual stream, which are left out.
    """

    epsilon: float
    slope: float
    padding: int
    residual_padding: int


def fits(x: jax.Array) -> bool:
    """Return whether the kernel takes a feature map [B, H, W, C]."""
    return (
        x.dtype in (jnp.bfloat16, jnp.float32)
        and all(isinstance(n, int) for n in x.shape)
        and _channels(x) * x.dtype.itemsize >= LEAST_BYTES
    )


def normalise_padded(
    x: jax.Array,
    residual: jax.Array | None = None,
    *,
    epsilon: float,
    slope: float = 1.0,
    padding: int = 0,
    residual_padding: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """Normalise, activate, add the residual stream and pad by reflection.

    Args:
        x: [B, H, W, C] that `fits`.
        residual: The stream, padded on each side by `residual_padding`; None for none.
        epsilon: Added to the biased variance.
        slope: Factor of the activation below zero: 0 for ReLU, 1 for none.
        padding: Pixels of reflection on each side of the result; fewer than H and W.
        residual_padding: Pixels on each side of the residual stream.

    Returns:
        The result [B, H + 2 padding, W + 2 padding, C] twice, so that the gradients of two uses are
        added up where they are read, without a pass of their own. The second is for use as the
        residual stream of another call alone: of its gradient, the inner pixels count.
    """
    settings = Settings(epsilon, slope, padding, residual_padding)
    result, stream, *_ = _fused(settings, x, residual)
    return result, stream


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(settings: Settings, x: jax.Array, residual: jax.Array | None) -> tuple:
    """Compute the result, twice, and the mean and the scale of each image's channels."""
    y, mean, scale = _run_forward(settings, x, residual)
    return y, y, mean, scale


def _forward(settings: Settings, x: Any, residual: Any) -> tuple:
    x, residual = x.value, None if residual is None else residual.value
    # Not the kernel itself, or there would be no second derivatives.
    results = _fused(settings, x, residual)
    return results, (x, *results[2:], residual is not None)


def _backward(settings: Settings, kept: tuple, gradients: tuple) -> tuple:
    x, mean, scale, with_residual = kept
    result, stream, *_ = gradients
    if isinstance(result, SymbolicZero):
        result = jnp.zeros(result.shape, result.dtype)
    if isinstance(stream, SymbolicZero):
        stream = None
    return _gradients(settings, with_residual, x, mean, scale, result, stream)


_fused.defvjp(_forward, _backward, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gradients(
    settings: Settings,
    with_residual: bool,
    x: jax.Array,
    mean: jax.Array,
    scale: jax.Array,
    result: jax.Array,
    stream: jax.Array | None,
) -> tuple[jax.Array, jax.Array | None]:
    return _run_backward(settings, with_residual, x, mean, scale, result, stream)


def _gradients_forward(settings: Settings, with_residual: bool, *operands: Any) -> tuple:
    x, _, _, result, stream = operands
    return _gradients(settings, with_residual, *operands), (x, result, stream)


def _gradients_backward(
    settings: Settings, with_residual: bool, kept: tuple, cotangents: tuple
) -> tuple:
    """Compute second derivatives, of gradient penalties, from the formula."""

    def gradients(x: jax.Array, *of_results: jax.Array | None) -> tuple:
        residual = None
        if with_residual:
            padding = settings.residual_padding
            sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
            residual = jnp.pad(jnp.zeros_like(x), sides)
        results, pullback = jax.vjp(partial(formula, settings), x, residual)
        pairs = zip(of_results, results, strict=True)
        return pullback(tuple(jnp.zeros_like(y) if dy is None else dy for dy, y in pairs))

    x, result, stream = jax.vjp(gradients, *kept)[1](cotangents)
    return x, None, None, result, stream  # the statistics are functions of x


_gradients.defvjp(_gradients_forward, _gradients_backward)


def formula(
    settings: Settings, x: jax.Array, residual: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Compute `normalise_padded` in plain operations."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = wide - wide.mean((1, 2), keepdims=True)
    variance = jnp.square(centred).mean((1, 2), keepdims=True)
    y = centred * lax.rsqrt(variance + settings.epsilon)
    y = y if settings.slope == 1 else jax.nn.leaky_relu(y, settings.slope)
    if residual is not None:
        _, height, width, _ = x.shape
        start = settings.residual_padding
        y += residual[:, start : start + height, start : start + width].astype(y.dtype)
    pads = settings.padding, settings.padding
    y = pad_reflected(y.astype(x.dtype), pads, pads)
    return y, y


def _channels(x: jax.Array) -> int:
    """Return the channels of a program: a power of two, as all sizes in a kernel; may be 0."""
    _, height, width, channels = x.shape
    widest = LARGEST * 2 // x.dtype.itemsize // (_power(height) * _power(width))
    return min(MOST_CHANNELS, channels & -channels, widest)


def _power(n: int) -> int:
    """Return the least power of two that is not below n."""
    return 1 << (n - 1).bit_length()


def _call(kernel: Any, x: jax.Array, operands: list[jax.Array], results: list[Any]) -> list:
    """Run a kernel with a program for each image and group of channels."""
    channels = _channels(x)
    elements = _power(x.shape[1]) * _power(x.shape[2]) * channels
    return pl.pallas_call(
        partial(kernel, shape=x.shape[1:3], channels=channels),
        grid=(x.shape[0], x.shape[3] // channels),
        out_shape=results,
        compiler_params=plgpu.CompilerParams(
            num_warps=max(1, min(16, elements // ELEMENTS_PER_WARP)), num_stages=1
        ),
        interpret=interpreted,
        name=kernel.func.__name__.strip("_"),
    )(*operands)


def _run_forward(settings: Settings, x: jax.Array, residual: jax.Array | None) -> list:
    batch, height, width, channels = x.shape
    sides = height + 2 * settings.padding, width + 2 * settings.padding
    result = jax.ShapeDtypeStruct((batch, *sides, channels), x.dtype)
    statistic = jax.ShapeDtypeStruct((batch, channels), jnp.float32)
    operands = [x] if residual is None else [x, residual]
    kernel = partial(_norm_forward, settings=settings)
    return _call(kernel, x, operands, [result, statistic, statistic])


def _run_backward(
    settings: Settings,
    with_residual: bool,
    x: jax.Array,
    mean: jax.Array,
    scale: jax.Array,
    result: jax.Array,
    stream: jax.Array | None,
) -> tuple[jax.Array, jax.Array | None]:
    batch, height, width, channels = x.shape
    sides = height + 2 * settings.residual_padding, width + 2 * settings.residual_padding
    shapes = [x.shape] + [(batch, *sides, channels)] * with_residual
    operands = [x, mean, scale, result] + ([] if stream is None else [stream])
    kernel = partial(_norm_backward, settings=settings, with_residual=with_residual)
    gradients = _call(
        kernel, x, operands, [jax.ShapeDtypeStruct(shape, x.dtype) for shape in shapes]
    )
    return gradients[0], gradients[1] if with_residual else None


class _Tile:
    """The pixels and channels of a program, as indices of arrays.

    Attributes:
        image: Index of the image.
        channels: Channels, [channels].
    """

    def __init__(self, shape: tuple[int, int], channels: int):
        self.image = pl.program_id(0)
        self.channels = pl.program_id(1) * channels + jnp.arange(channels)
        self._sizes = shape
        self._shape = (*map(_power, shape), channels)
        self._whole = self._shape[:2] == shape

    def load(self, ref: Any, padding: int = 0) -> jax.Array:
        """Load the inner pixels of a padded map, 0 outside of the image."""
        place, mask = self._places(ref, padding)[0]
        return plgpu.load(place, mask=mask, other=None if mask is None else 0)

    def load_reflected(self, ref: Any, padding: int) -> jax.Array:
        """Load a padded map, with each pixel of the padding added to the one it shows, float32."""
        total = self.load(ref, padding).astype(jnp.float32)
        for place, mask in self._places(ref, padding)[1:]:
            total += plgpu.load(place, mask=mask, other=0).astype(jnp.float32)
        return total

    def store(self, ref: Any, value: jax.Array, padding: int = 0) -> None:
        """Store the inner pixels of a padded map."""
        place, mask = self._places(ref, padding)[0]
        plgpu.store(place, value.astype(ref.dtype), mask=mask)

    def store_border(self, ref: Any, value: jax.Array, padding: int) -> None:
        """Store the padding of a padded map: the pixels that it shows."""
        for place, mask in self._places(ref, padding)[1:]:
            plgpu.store(place, value.astype(ref.dtype), mask=mask)

    def mean(self, value: jax.Array) -> jax.Array:
        """Compute the means over all pixels, of values that are 0 outside."""
        height, width = self._sizes
        return value.sum(0).sum(0) / (height * width)

    def inside(self, value: jax.Array) -> jax.Array:
        """Set values outside of the image to 0."""
        if self._whole:
            return value
        rows, columns, _ = (lax.broadcasted_iota(jnp.int32, self._shape, i) for i in range(3))
        return jnp.where((rows < self._sizes[0]) & (columns < self._sizes[1]), value, 0)

    def _places(self, ref: Any, padding: int) -> list[tuple[Any, jax.Array | None]]:
        """Return where a padded map shows the pixels, first themselves, and masks of those shown.

        The mask is None where all are shown.
        """
        rows, columns = (
            _places_of_axis(size, padding, jnp.arange(power).reshape(shape))
            for size, power, shape in zip(
                self._sizes, self._shape[:2], ((-1, 1, 1), (1, -1, 1)), strict=True
            )
        )
        result: list[tuple[Any, jax.Array | None]] = []
        for row, row_mask in rows:
            for column, column_mask in columns:
                place = ref.at[self.image, row, column, self.channels[None, None, :]]
                mask = None
                if not (self._whole and not result):
                    mask = jnp.broadcast_to(row_mask & column_mask, self._shape)
                result.append((place, mask))
        return result


def _places_of_axis(size: int, padding: int, pixel: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Return where a padded axis shows its pixels, and masks: inside, before, and after.

    Pixels that are not shown have a place past the end, or interpreted stores would overwrite what
    is there with its earlier value.
    """
    last, end = size - 1, size + 2 * padding
    places = [(pixel, pixel < size)]
    if padding:
        places += [
            (-pixel, (pixel >= 1) & (pixel <= padding)),
            (2 * last - pixel, (pixel >= last - padding) & (pixel < last)),
        ]
    return [(jnp.where(shown, place + padding, end), shown) for place, shown in places]


def _norm_forward(*refs: Any, settings: Settings, shape: tuple[int, int], channels: int) -> None:
    x_ref, *residual_ref, y_ref, mean_ref, scale_ref = refs
    tile = _Tile(shape, channels)
    x = tile.load(x_ref).astype(jnp.float32)
    mean = tile.mean(x)
    variance = tile.mean(jnp.square(tile.inside(x - mean)))
    scale = lax.rsqrt(variance + settings.epsilon)
    plgpu.store(mean_ref.at[tile.image, tile.channels], mean)
    plgpu.store(scale_ref.at[tile.image, tile.channels], scale)

    y = (x - mean) * scale
    if settings.slope != 1:
        y = jnp.where(y > 0, y, settings.slope * y)
    for ref in residual_ref:
        y += tile.load(ref, settings.residual_padding).astype(jnp.float32)
    tile.store(y_ref, y, settings.padding)
    tile.store_border(y_ref, y, settings.padding)


def _norm_backward(
    *refs: Any, settings: Settings, with_residual: bool, shape: tuple[int, int], channels: int
) -> None:
    x_ref, mean_ref, scale_ref, result_ref, *others = refs
    residual_ref = others.pop() if with_residual else None
    *stream_ref, gradient_ref = others
    tile = _Tile(shape, channels)
    loaded = tile.load(x_ref)
    x = loaded.astype(jnp.float32)
    mean = plgpu.load(mean_ref.at[tile.image, tile.channels])
    scale = plgpu.load(scale_ref.at[tile.image, tile.channels])

    y = tile.load_reflected(result_ref, settings.padding)
    for ref in stream_ref:
        y += tile.load(ref, settings.padding).astype(jnp.float32)
    if residual_ref is not None:
        tile.store(residual_ref, y, settings.residual_padding)
        tile.store_border(residual_ref, jnp.zeros_like(y), settings.residual_padding)
    if settings.slope != 1:
        # At 0, the slope of jax.nn.relu and of jax.nn.leaky_relu.
        y = jnp.where(x > mean if settings.slope == 0 else x >= mean, y, settings.slope * y)
    across = tile.mean(y)
    along = tile.mean(y * (x - mean)) * jnp.square(scale)
    x = _widened_again(loaded)
    tile.store(gradient_ref, scale * (y - across - (x - mean) * along))


def _widened_again(x: jax.Array) -> jax.Array:
    """Convert to float32, in a way that the compiler does not take for the first conversion.

    It would keep that one's result, which fills twice the registers.
    """
    if x.dtype != jnp.bfloat16:
        return x.astype(jnp.float32)
    bits = lax.bitcast_convert_type(x, jnp.uint16).astype(jnp.uint32) << 16
    return lax.bitcast_convert_type(bits, jnp.float32)
