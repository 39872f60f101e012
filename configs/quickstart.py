"""A first run: small networks on the built-in dataset at 64x64.

    python main.py --config configs/quickstart.py --workdir runs/quickstart

Data: built in; nothing is downloaded.

Result: 2,400 updates in about five minutes on two CPU cores. At the end a table
compares the translations at the start and at the end with those of generators that change nothing
(see README.md), and `runs/quickstart/samples` has images.

Losses and update are those of the original; networks and schedule are smaller.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Return the configuration: ResNet-3 of width 16, six epochs."""
    config = default.get_config()

    config.generator.variant = "resnet3"
    config.generator.width = 16
    config.discriminator.width = 16
    config.discriminator.layers = 2
    config.optimizer.learning_rate = 5e-4

    config.data.source = "shapes"
    config.data.transform = "none"
    config.schedule.constant_epochs = 3
    config.schedule.decay_epochs = 3

    config.log_every_steps = 100
    config.sample_every_steps = 600
    config.evaluate_every_steps = 600
    config.checkpoint_every_steps = 600
    return config
