"""Instance norms that run in one kernel with what follows them, in the "triton" form.

A layer that ends with such a norm returns a `Deferred` in place of an array. What consumes it
decides what the kernel computes as well: the reflection padding of a convolution, or the sum with
a residual stream, which then passes from block to block with the padding of the next convolution.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from cyclegan_jax import ops
from cyclegan_jax.models.layers import Conv, InstanceNorm, LayerConfig, leaky_relu

Array = jax.Array

# Activations that kernels compute: {activation: factor below zero}.
SLOPES: dict[Callable[[Array], Array] | None, float] = {None: 1.0, nn.relu: 0.0, leaky_relu: 0.2}


class Deferred:
    """A feature map of which the norm, and what follows it, is still to be computed.

    It is computed once, with the padding of its first consumer.
    """

    def __init__(self, x: Array, slope: float, residual: "Array | Deferred | None" = None):
        """Describe a map.

        Args:
            x: The map before its norm, [B, H, W, C].
            slope: Factor of the activation below zero.
            residual: The map that is added after the activation.
        """
        self.shape = x.shape
        self._x = x
        self._slope = slope
        self._residual = residual
        self._padding = 0
        self._results: tuple[Array, Array] | None = None

    def plus(self, residual: "Array | Deferred") -> "Deferred | None":
        """Return the sum with a residual stream; None if it cannot be deferred."""
        if self._results is not None or self._residual is not None:
            return None
        return Deferred(self._x, self._slope, residual)

    def padded(self, padding: int) -> Array:
        """Compute the map, padded by reflection on each side."""
        if self._results is None:
            self._results, self._padding = self._compute(padding), padding
        if padding == self._padding:
            return self._results[0]
        return ops.pad_reflected(self.plain(), (padding, padding), (padding, padding))

    def plain(self) -> Array:
        """Compute the map."""
        if self._results is None and self._slope == 1 and self._residual is None:
            # Nothing to fuse, but what follows fuses with XLA's kernels.
            return ops.normalise(self._x, InstanceNorm.epsilon)
        if self._results is None:
            return self.padded(0)
        _, height, width, _ = self.shape
        return self._results[0][:, self._padding :, self._padding :][:, :height, :width]

    def stream(self) -> tuple[Array, int]:
        """Compute the map as a residual stream, and the padding on each side of it."""
        if self._results is None:
            self.padded(0)
        assert self._results is not None
        return self._results[1], self._padding

    def _compute(self, padding: int) -> tuple[Array, Array]:
        residual, residual_padding = self._residual, 0
        if isinstance(residual, Deferred):
            residual, residual_padding = residual.stream()
        return ops.normalise_padded(
            self._x,
            residual,
            epsilon=InstanceNorm.epsilon,
            slope=self._slope,
            padding=padding,
            residual_padding=residual_padding,
        )


def defer(
    config: LayerConfig, x: Array, activation: Callable[[Array], Array] | None
) -> Deferred | None:
    """Defer the norm of a layer and its activation; None where no kernel computes them."""
    norm = config.build_norm(parent=None)
    if type(norm) is not InstanceNorm or norm.affine or norm.raised != "variance":
        return None
    if activation not in SLOPES or not ops.fits_kernel(x):
        return None
    return Deferred(x, SLOPES[activation])


def normed(config: LayerConfig, name: str, x: Array, activation: Callable[[Array], Array]) -> Array:
    """Compute a norm, whose parameters are below `name` of the calling module, and activation."""
    deferred = defer(config, x, activation)
    if deferred is not None:
        return deferred.plain()
    return activation(config.build_norm(name=name)(x))


def plain(x: Any) -> Any:
    """Compute a map that may be deferred; return anything else as it is."""
    return x.plain() if isinstance(x, Deferred) else x


def convolved(x: "Array | Deferred", conv: Callable[..., Any]) -> tuple[Array, Callable[..., Any]]:
    """Return a convolution's input and the convolution, without padding if the input has it."""
    if isinstance(x, Deferred):
        layer = conv(parent=None)
        if type(layer) is Conv and layer.pad_mode == "reflect":
            (top, bottom), (left, right) = layer.pads(*x.shape[1:3])
            if 0 < top == bottom == left == right < min(x.shape[1:3]):
                return x.padded(top), functools.partial(conv, padding=0)
    return plain(x), conv


def added(x: Any, y: Any) -> Any:
    """Add two maps; the second is a norm's in residual blocks."""
    total = y.plus(x) if isinstance(y, Deferred) else None
    return plain(x) + plain(y) if total is None else total
