"""The default configuration, also where ml_collections is not installed."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any


def default_config() -> Any:
    """Return the default configuration; without ml_collections, as plain objects of its fields."""
    try:
        import ml_collections  # noqa: F401
    except ImportError:
        stand_in: Any = ModuleType("ml_collections")
        stand_in.ConfigDict = type("ConfigDict", (SimpleNamespace,), {})
        stand_in.config_dict = SimpleNamespace(placeholder=lambda kind: None)
        sys.modules["ml_collections"] = stand_in
    from cyclegan_jax.default_config import get_config

    return get_config()
