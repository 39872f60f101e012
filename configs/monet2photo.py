"""Monet's paintings to photographs and back, without transposed convolutions.

    python main.py --config configs/monet2photo.py --workdir runs/monet2photo

Reproduces: the original with nearest-neighbour upsampling and a convolution instead of transposed
convolutions, four strided layers in the discriminators (16x16 scores for 256x256), and losses
averaged over the two directions, which halves the original's weights. The learning rate is full for
epochs 0 to 100 and falls by a hundredth in each of the 99 that follow.

Data: `cycle_gan/monet2photo` of TFDS, downloaded at the first start, or a folder that holds trainA,
trainB, testA and testB:

    ... --config.data.source=folder --config.data.dir=FOLDER

Result: 200 epochs of as many updates as the larger set has images.

Deviations: the sample of step n shows the networks after n updates, and in the published code after
n + 1. Test images, which samples draw at random, are cropped in the center; there they are cropped
and flipped at random.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Return the configuration (parameters: generator 11,378,179, discriminator 2,764,737)."""
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
    config.data.transform = "scale_shorter_and_crop"
    config.data.load_size = 286  # 1.12 times 256, rounded down

    config.sample_every_steps = 100
    config.sample_at_start = True
    config.sample_images = 5
    config.sample_random = True
    return config
