"""A configuration whose networks compile in seconds, on built-in images of 32x32."""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Return the default configuration with everything small, and 20 updates."""
    config = default.get_config()
    config.generator.variant = "resnet3"
    config.generator.blocks = 1
    config.generator.width = 4
    config.discriminator.width = 4
    config.discriminator.layers = 1
    config.pool_size = 4
    config.batch_size = 2
    config.num_steps = 20
    config.data.source = "shapes"
    config.data.transform = "none"
    config.data.shapes_size = 32
    config.data.shapes_train = 12
    config.data.shapes_test = 4
    config.log_every_steps = 5
    config.sample_every_steps = 5
    config.sample_images = 1
    config.checkpoint_every_steps = 5
    return config
