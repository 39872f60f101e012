"""Networks with their parameters, as functions of batches of images."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cyclegan_jax.models.layers import fold_in
from cyclegan_jax.models.protocol import features
from cyclegan_jax.ops.forms import Form, chosen_form

Array = jax.Array
Params = Any


class BoundNetwork:
    """A network with its parameters, as a function of one or several batches of images.

    Where it treats each image by itself, several batches pass through it in one call: the same
    result from fewer and larger operations. Every batch has random keys of its own, which follow
    from the number of batches before it, as those of Flax's `make_rng` do.
    """

    def __init__(self, module: Any, params: Params, keys: Array | None = None):
        """Bind a module.

        Args:
            module: A Flax module of the protocols in `models.protocol`.
            params: Its parameters.
            keys: [B], one PRNG key per image, for generators; None for discriminators.
        """
        self.module = module
        self.params = params
        self._keys = keys
        self._calls = 0

    def __call__(self, *batches: Array) -> Any:
        """Apply the network to batches [B, H, W, C]; return one output, or a tuple of several."""
        if len(batches) == 1:
            return self._apply(batches[0], self._next_keys())
        keys = [self._next_keys() for _ in batches]
        if self.module.mixes_images:
            return tuple(map(self._apply, batches, keys))
        joined_keys = None if self._keys is None else jnp.concatenate(keys)  # type: ignore[arg-type]
        joined = self._apply(jnp.concatenate(batches), joined_keys)
        size = len(batches[0])
        return tuple(
            jax.tree.map(lambda y, i=i: y[i * size : (i + 1) * size], joined)
            for i in range(len(batches))
        )

    def features(self, x: Array, layers: Sequence[str]) -> dict[str, Array]:
        """Compute intermediate feature maps; see `models.protocol.features`."""
        return features(self.module, self.params, x, layers, self._next_keys())

    def _apply(self, x: Array, keys: Array | None) -> Any:
        return _apply(self.params, x, keys, module=self.module, form=chosen_form())

    def _next_keys(self) -> Array | None:
        if self._keys is None:
            return None
        self._calls += 1
        return fold_in(self._keys, self._calls)


# Compiled functions are traced once per network and shapes. The passes of an update, and gen_ab and
# gen_ba, which are equal as modules, share a trace, which halves the time before compilation. The
# form of convolutions is an argument because it is not one of the module's.
@functools.partial(jax.jit, static_argnames=("module", "form"))
def _apply(params: Params, x: Array, keys: Array | None, *, module: Any, form: Form) -> Any:
    del form
    variables = {"params": params}
    return module.apply(variables, x) if keys is None else module.apply(variables, x, keys)
