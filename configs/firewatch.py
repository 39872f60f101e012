r"""Photographs of landscapes into the style of a game, after a Keras CycleGAN.

    python main.py --config configs/firewatch.py --workdir runs/firewatch --config.data.dir=FOLDER

It expects photographs in `FOLDER/trainA`, images of the style in `FOLDER/trainB` (screenshots of
the game Firewatch, say, of which there is no published set), and likewise `testA` and `testB`. All
are resized straight to 256x256.

Generators of width 32 and discriminators of four strided layers, padded as Keras pads, affine
instance norm, scores through a sigmoid; discriminators move first. Options of the same system:

    a soft label for real           --config.loss.real_label=0.9
    generators that lag behind      --config.generator_updates=5
    learning rate falling from epoch 101 on   --config.schedule.name=linear
    identity, every tenth update    --config.loss.identity=0.1
    up by doubled pixels            --config.generator.variant=resnet9_same_resize
    one score for the image       --config.discriminator.variant=dense
    discriminators at two sizes, and deeper generators
        --config.discriminator.scales=2 --config.generator.variant=resnet9_same_deep
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """2,855,811 parameters in a generator, 2,766,529 in a discriminator."""
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
