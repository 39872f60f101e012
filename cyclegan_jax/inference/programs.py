"""Compiled programs for images of many sizes, of which the latest are kept."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from cyclegan_jax.utils.memory import release_free_memory

Result = TypeVar("Result")
Function = Callable[[Any, Any, Any], Result]


def jit_by_size(kept: int) -> Callable[[Function[Result]], Function[Result]]:
    """Compile (static, arguments, images) -> results like `jax.jit`, within bounded memory.

    `jax.jit` keeps the programs of all sizes for as long as the process runs, up to 40 MiB for each
    size of image.

    Args:
        kept: Number of programs to keep, those used last. One that was dropped is compiled again.
    """

    def transform(function: Function[Result]) -> Function[Result]:
        @functools.lru_cache(maxsize=kept)
        def program(static: Any, shape: tuple[int, ...], dtype: Any) -> Callable[..., Result]:
            del shape, dtype
            return jax.jit(functools.partial(function, static))

        @functools.wraps(function)
        def apply(static: Any, arguments: Any, images: Any) -> Result:
            compiled = program.cache_info().misses
            result = program(static, images.shape, images.dtype)(arguments, images)
            if program.cache_info().misses > compiled:
                release_free_memory()  # of the compiler
            return result

        return apply

    return transform
