r"""Monet's paintings into photographs and back, without transposed convolutions.

    python main.py --config configs/monet2photo.py --workdir runs/monet2photo

Images come from TFDS's `cycle_gan/monet2photo`, fetched once, or from a folder that holds trainA,
trainB, testA and testB:

    ... --config.data.source=folder --config.data.dir=FOLDER

As the original, with doubled pixels and a convolution on the way up, four strided layers in the
discriminators (16x16 scores for 256x256), and losses averaged over the two directions: half of the
original's weights. The learning rate is full for epochs 0 to 100 and falls by a hundredth in each
of the 99 that follow.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """11,378,179 parameters in a generator, 2,764,737 in a discriminator."""
    config = default.get_config()
    config.generator.variant = "resnet9_resize"
    config.discriminator.variant = "patch_strided"
    config.discriminator.layers = 4

    config.loss.adversarial = 0.5
    config.loss.cycle_a = 5.0
    config.loss.cycle_b = 5.0
    config.schedule.constant_epochs = 101
    config.schedule.decay_epochs = 99

    config.data.source = "tfds"
    config.data.name = "monet2photo"

    config.sample_every_steps = 100
    config.sample_images = 5
    return config
