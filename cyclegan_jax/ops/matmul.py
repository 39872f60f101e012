"""Matrix products, in which the cpu forms of convolutions spend their time."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from cyclegan_jax.ops.forms import widened


def multiply(a: jax.Array, b: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Compute a @ b of operands rounded to dtype, with sums of float32 at least."""
    a, b = a.astype(dtype), b.astype(dtype)
    return lax.dot(a, b, preferred_element_type=jnp.promote_types(dtype, jnp.float32))


def channels_first(x: jax.Array) -> jax.Array:
    """Transpose [B, H, W, C] to [C, B, H, W], in memory.

    A product that sums over pixels needs its first operand in this order. XLA would otherwise
    transpose inside the product, which then takes up to 2.5 times as long.
    """
    turned = in_order(lax.optimization_barrier(x).reshape(-1, x.shape[3]).T)
    return turned.reshape(x.shape[3], *x.shape[:3])


def in_order(x: jax.Array) -> jax.Array:
    """Write a transposed array to memory in the order of its axes.

    XLA would otherwise transpose in what comes next; products of a transposed operand are slow, and
    those of bfloat16 become float32.
    """
    return lax.optimization_barrier(with_layout_constraint(x, Layout(tuple(range(x.ndim)))))


def operand(x: jax.Array) -> jax.Array:
    """Convert to a type in which this CPU multiplies fast: bfloat16 where it has instructions."""
    return x if x.dtype == jnp.bfloat16 and has_bfloat16_products() else widened(x)


@functools.cache
def has_bfloat16_products() -> bool:
    """Return whether the CPU multiplies bfloat16 with sums in float32, twice as fast as float32."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16"})
