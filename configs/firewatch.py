r"""Photographs of landscapes to the style of a game, after a CycleGAN in Keras.

    python main.py --config configs/firewatch.py --workdir runs/firewatch --config.data.dir=FOLDER

Reproduces: generators of width 32 and discriminators of four strided layers, padding as in Keras,
instance norm with scale and offset, scores through a sigmoid. Discriminators are updated first.
Options of the same system:

    a soft label for real images    --config.loss.real_label=0.9
    generators that lag behind      --config.generator_updates=5
    linear decay from epoch 101     --config.schedule.name=linear
    identity, every tenth update    --config.loss.identity=0.1
    nearest-neighbour upsampling    --config.generator.variant=resnet9_same_resize
    one score per image             --config.discriminator.variant=dense
    discriminators at two sizes, with deeper generators
        --config.discriminator.scales=2 --config.generator.variant=resnet9_same_deep

Data: photographs in `FOLDER/trainA`, images of the style in `FOLDER/trainB` (for example
screenshots of the game Firewatch; no set is published), and optionally `testA` and `testB`. All
images are resized to 256x256.

Result: 200 epochs of as many updates as the larger set has images.

Deviations: a discriminator takes one Adam step per batch on real and translated images together,
the identity loss is part of the generators' step, and the image pool returns older images. In the
published code a discriminator takes two steps, identity is a step of its own, and the pool returns
only the newest image. Initialisation and Adam's epsilon are those of the original CycleGAN and of
Optax, not of Keras, and the epsilon of the instance norm is added to the variance.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Return the configuration (parameters: generator 2,855,811, discriminator 2,766,529)."""
    config = default.get_config()
    config.generator.variant = "resnet9_same"
    config.generator.width = 32
    config.generator.norm = "instance_affine"
    config.discriminator.variant = "patch_same"
    config.discriminator.layers = 4
    config.discriminator.norm = "instance_affine"
    config.discriminator.sigmoid = True

    config.loss.identity = 0.0
    config.loss.identity_every_steps = 10
    config.update_first = "discriminators"
    config.schedule.name = "constant"

    config.data.source = "folder"
    config.data.load_size = 256
    config.data.crop_size = 256
    config.data.flip = False
    return config
