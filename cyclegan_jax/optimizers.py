"""Optimisers: functions of the learning rate, which may be a traced scalar."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Params = Any


def adam(learning_rate: Any, b1: float, b2: float) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015) with epsilon 1e-8, as in PyTorch and Optax."""
    return optax.adam(learning_rate, b1, b2)


def keras_adam(
    learning_rate: Any, b1: float, b2: float, joint: bool = True
) -> optax.GradientTransformation:
    """Adam as in Keras 2, where epsilon is 1e-7 and is added to the uncorrected root.

    Args:
        learning_rate: The rate.
        b1: Decay of the first moment.
        b2: Decay of the second moment.
        joint: Whether all networks are updated in one step. Otherwise each takes a step of its own,
            in the order of their names, and all share one count of steps for the correction of
            their moments, as models that are compiled with one optimiser do.
    """

    def update(
        gradients: Params, state: optax.ScaleByAdamState, params: Params | None = None
    ) -> tuple[Params, optax.ScaleByAdamState]:
        del params
        mu = optax.tree_utils.tree_update_moment(gradients, state.mu, b1, 1)
        nu = optax.tree_utils.tree_update_moment_per_elem_norm(gradients, state.nu, b2, 2)

        def direction(mu: Params, nu: Params, count: Any) -> Params:
            factor = jnp.sqrt(1 - b2**count) / (1 - b1**count)
            return jax.tree.map(lambda m, v: factor * m / (jnp.sqrt(v) + 1e-7), mu, nu)

        if joint:
            count = state.count + 1
            return direction(mu, nu, count), optax.ScaleByAdamState(count, mu, nu)
        updates = {
            name: direction(mu[name], nu[name], state.count + place)
            for place, name in enumerate(sorted(mu), start=1)
        }
        return updates, optax.ScaleByAdamState(state.count + len(mu), mu, nu)

    init = optax.scale_by_adam(b1, b2).init
    return optax.chain(
        optax.GradientTransformation(init, update),
        optax.scale_by_learning_rate(learning_rate),
    )


# Optimisers by name: functions of `learning_rate`, and of `b1` and `b2` if they take them, that
# return a gradient transformation of {network: gradients}, whose state must not depend on the rate.
# An entry that takes `joint` is told whether these networks are updated in one step.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": adam,
    "keras_adam": keras_adam,
}
