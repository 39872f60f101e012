"""The forms of an operation: the same result, computed as its backend runs fast.

"direct" is for GPUs, "cpu" for CPUs. "triton" is "direct" with kernels of our own for instance
norms (`ops.pallas_norm`); no backend has it by default.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import jax
import jax.numpy as jnp

Form = Literal["direct", "cpu", "triton"]

_default: ContextVar[Form | None] = ContextVar("default", default=None)


@contextmanager
def default_form(form: Form | None) -> Iterator[None]:
    """Trace operations in this form, for programs that another backend will run.

    None leaves the form as it is.
    """
    token = _default.set(form or _default.get())
    try:
        yield
    finally:
        _default.reset(token)


def chosen_form(form: Form | None = None) -> Form:
    """Return the given form, the one of `default_form`, or that of the default backend."""
    form = form or _default.get()
    if form is None:
        return "cpu" if jax.default_backend() == "cpu" else "direct"
    return form


def widened(x: jax.Array) -> jax.Array:
    """Convert to float32 at least: CPUs multiply no faster in half precision."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
