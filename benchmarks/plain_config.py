"""The default configuration, also where ml_collections is not installed."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any


def default_config() -> Any:
    """What `configs/default.py` gives; without ml_collections, plain objects of the same fields."""
    try:
        import ml_collections  # noqa: F401
    except ImportError:
        stand_in: Any = ModuleType("ml_collections")
        stand_in.ConfigDict = type("ConfigDict", (SimpleNamespace,), {})
        stand_in.config_dict = SimpleNamespace(placeholder=lambda kind: None)
        sys.modules["ml_collections"] = stand_in
    from configs.default import get_config

    return get_config()
