"""The built-in set at 64x64 with small networks: a run from nothing to striped shapes.

    python main.py --config configs/quickstart.py --workdir runs/quickstart

About three and a half minutes on two CPU cores. At the end a table compares the start, the end and
what generators would score that change nothing; `runs/quickstart/samples` has the images.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Small networks and a short schedule; losses and update are those of the original."""
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
