"""Set-up for all tests: compiled programs are kept between sessions, and tiny configurations."""

import os
import tempfile
from pathlib import Path

CACHE = Path(tempfile.gettempdir()) / "cyclegan_jax_test_cache"
# Subprocesses of the tests inherit these.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import pytest  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from configs import default  # noqa: E402


def tiny_config() -> ConfigDict:
    """Networks that compile in seconds, on built-in pictures of 32x32."""
    config = default.get_config()
    config.generator.variant = "resnet3"
    config.generator.width = 4
    config.discriminator.width = 4
    config.discriminator.layers = 1
    config.pool_size = 4
    config.batch_size = 2
    config.data.source = "shapes"
    config.data.treatment = "none"
    config.data.shapes_size = 32
    config.data.shapes_train = 12
    config.data.shapes_test = 4
    return config


@pytest.fixture
def config() -> ConfigDict:
    """A `tiny_config` of the test's own."""
    return tiny_config()
