"""CycleGAN in JAX and Flax: unpaired image-to-image translation.

The names below are what a notebook needs; they are imported when first used.
"""

import importlib
import signal
import sys
from typing import Any

from cyclegan_jax.utils.memory import use_huge_pages

_EXPORTS = {
    "get_config": "default_config",
    "build_model": "build",
    "build_networks": "build",
    "build_state": "build",
    "CycleGAN": "step",
    "train_step": "step",
    "compile_step": "distributed",
    "Translator": "inference.translator",
    "read_image": "utils.image_io",
    "write_image": "utils.image_io",
    "UserError": "utils.errors",
    "train": "training",
}
__all__ = [
    "CycleGAN",
    "Translator",
    "UserError",
    "build_model",
    "build_networks",
    "build_state",
    "compile_step",
    "get_config",
    "read_image",
    "train",
    "train_step",
    "write_image",
]


if sys.argv[:1] == ["-m"]:  # `python -m cyclegan_jax.NAME`, before its imports
    use_huge_pages()
    # Libraries can swallow the KeyboardInterrupt of ctrl-C while they are imported.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
