"""One definition of a generator's forward pass for training, tiled inference and export.

A generator that derives from `ForwardGenerator` writes its layers once, in `forward(ops, x)`, in
terms of the operations of `Ops`. Training runs it with `FlaxOps`, where x is an array; tiled
inference and the ONNX export run it with `Ops` of their own, where x stands for a feature map
computed in bands, or for a value of a graph.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from cyclegan_jax.models.deferred import added, convolved, defer, plain
from cyclegan_jax.models.layers import LayerConfig, fold_in
from cyclegan_jax.models.layers import dropout as apply_dropout

Array = jax.Array
Activation = Callable[[Array], Array]
LayerFactory = Callable[..., Any]
X = TypeVar("X")


class Ops(Protocol[X]):
    """Operations of a forward pass on feature maps of type X."""

    def layer(
        self,
        x: X | list[X],
        conv: LayerFactory,
        name: str,
        *,
        norm: str | None = None,
        activation: Activation | None = None,
        pre_activation: Activation | None = None,
        dropout: float = 0.0,
    ) -> X:
        """Apply a convolution and what belongs to it.

        Args:
            x: Input; several are concatenated along channels.
            conv: Partial of `Conv`, `ResizeConv` or `UpConv` that lacks `name` and `normed`.
            name: Name of the layer's parameters.
            norm: Name of the parameters of a norm after the convolution; None for no norm.
            activation: Applied after the norm.
            pre_activation: Applied before the convolution.
            dropout: Rate, after the activation.
        """

    def block(self, x: X, block: LayerFactory, name: str) -> X:
        """Apply a `Block`, whose parameters are below `name`."""

    def add(self, x: X, y: X) -> X:
        """Add two maps."""

    def output(self, x: X) -> X:
        """Apply tanh in the parameters' type, for a result in (-1, 1)."""


class Block(nn.Module):
    """A part of a network with parameters below a name of its own."""

    config: LayerConfig

    def forward(self, ops: Ops[X], x: X) -> X:
        """Apply the block by means of `ops`."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, x: Array, keys: Array | None = None) -> Array:
        """Map [B, H, W, C] to [B, H', W', C']."""
        return self.forward(FlaxOps(self, keys), x)


class FlaxOps:
    """The operations on arrays, which create their layers as submodules of `module`.

    Attributes:
        module: A compact module whose `__call__` is running.
        keys: [B] keys of the images, for dropout; None for no dropout.
        remat: Whether gradients recompute each layer and block instead of storing its activations.
    """

    def __init__(self, module: Any, keys: Array | None, *, remat: bool = False):
        self.module = module
        self.keys = keys
        self.remat = remat
        self._draws = 0

    def layer(
        self,
        x: Array | list[Array],
        conv: LayerFactory,
        name: str,
        *,
        norm: str | None = None,
        activation: Activation | None = None,
        pre_activation: Activation | None = None,
        dropout: float = 0.0,
    ) -> Array:
        """Implement `Ops.layer`."""
        config: LayerConfig = self.module.config

        def compute(_: nn.Module, keys: Array | None, *inputs: Any) -> Any:
            if len(inputs) > 1:
                inputs = (jnp.concatenate([plain(x) for x in inputs], axis=-1),)
            y, convolution = convolved(inputs[0], conv)
            y = y if pre_activation is None else pre_activation(y)
            y = convolution(name=name, normed=norm is not None)(y)
            deferred = None if norm is None or keys is not None else defer(config, y, activation)
            if deferred is not None:
                return deferred
            y = y if norm is None else config.build_norm(name=norm)(y)
            y = y if activation is None else activation(y)
            return apply_dropout(y, dropout, keys)

        return self._run(compute, self._next_keys(dropout), *(x if isinstance(x, list) else [x]))

    def block(self, x: Array, block: LayerFactory, name: str) -> Array:
        """Implement `Ops.block`."""

        def compute(_: nn.Module, keys: Array | None, x: Any) -> Any:
            return block(name=name)(x, keys)

        return self._run(compute, self._next_keys(1.0), x)

    def add(self, x: Array, y: Array) -> Array:
        """Implement `Ops.add`."""
        return added(x, y)

    def output(self, x: Array) -> Array:
        """Implement `Ops.output`."""
        return nn.tanh(plain(x).astype(self.module.config.param_dtype))

    def _run(self, compute: Callable[..., Any], *args: Any) -> Any:
        if not self.remat:
            return compute(self.module, *args)
        # What is recomputed is a function of arrays.
        recomputed = nn.remat(lambda module, *args: plain(compute(module, *args)))
        return recomputed(self.module, *map(plain, args))

    def _next_keys(self, rate: float) -> Array | None:
        """Return keys that no other layer of the module draws from."""
        if self.keys is None or rate == 0.0:
            return None
        self._draws += 1
        return fold_in(self.keys, self._draws)
