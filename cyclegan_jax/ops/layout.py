"""The layout of arrays in memory."""

from typing import Any

import jax
from jax.experimental.layout import Layout, with_layout_constraint

from cyclegan_jax.ops.forms import chosen_form


def in_default_layout(tree: Any) -> Any:
    """Lay arrays out as those that a compiled program receives and returns.

    cuDNN returns gradients of kernels in a layout of its own. XLA would extend that to what is
    computed from them, the updated parameters and Adam's moments, and then copy each back.
    """
    if chosen_form() == "cpu":
        return tree
    return jax.tree.map(lambda x: with_layout_constraint(x, Layout(tuple(range(x.ndim)))), tree)
