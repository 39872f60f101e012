"""The tiny configuration with smaller networks, images and batches: it compiles twice as fast."""

from ml_collections import ConfigDict

from tests import tiny
from tests.smallest import SIZE  # it registers "resnet1"


def get_config() -> ConfigDict:
    """Return a configuration of 10 updates, with a checkpoint after every fifth."""
    config = tiny.get_config()
    config.generator.variant = "resnet1"
    config.generator.width = 2
    config.discriminator.width = 2
    config.batch_size = 1
    config.num_steps = 10
    config.data.shapes_size = SIZE[0]
    return config
