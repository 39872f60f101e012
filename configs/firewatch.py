r"""Photographs of landscapes to the style of a game, after a CycleGAN in Keras.

    python main.py --config configs/firewatch.py --workdir runs/firewatch --config.data.dir=FOLDER

Reproduces: generators of width 32 and discriminators of four strided layers, padding as in Keras,
instance norm with scale and offset whose epsilon is added to the deviation, scores through a
sigmoid, Glorot-uniform initial weights, Adam as in Keras. Discriminators are updated first, in two
steps: on real images, then on translated ones. Images are drawn with replacement. Options of the
same system:

    a soft label for real images    --config.loss.real_label=0.9
    generators that lag behind      --config.generator_updates=5
    linear decay from epoch 102     --config.schedule.name=linear_per_update
    identity, every tenth update, as a step of its own
        --config.loss.identity=0.1
    nearest-neighbour upsampling    --config.generator.variant=resnet9_same_resize
    one score per image             --config.discriminator.variant=dense
    discriminators at two sizes, with deeper generators
        --config.discriminator.scales=2 --config.generator.variant=resnet9_same_deep

Data: photographs in `FOLDER/trainA`, images of the style in `FOLDER/trainB` (for example
screenshots of the game Firewatch; no set is published), and optionally `testA` and `testB`.

Result: 200 epochs of as many updates as the larger set has images.

Deviations: images are resized to 256x256 and are in colour; the published code takes them as they
are, grey by default. Its image pool has 50 images, but returns only the newest, as ours of size 0.
TensorFlow 1 may assign a kernel before the gradient for the layer's input has read it; which it
does varies from run to run, and changes losses by up to 6 per cent within five updates. With both
the identity loss and the decay, its learning rate of the generators falls to 9 per cent, not to 0.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Return the configuration (parameters: generator 2,855,811, discriminator 2,766,529)."""
    config = default.get_config()
    config.generator.variant = "resnet9_same"
    config.generator.width = 32
    config.generator.norm = "instance_affine_std"
    config.discriminator.variant = "patch_same"
    config.discriminator.layers = 4
    config.discriminator.norm = "instance_affine_std"
    config.discriminator.sigmoid = True
    config.init.name = "glorot_uniform"

    config.loss.identity = 0.0
    config.loss.identity_every_steps = 10
    config.loss.identity_step = "separate"
    config.pool_size = 0
    config.update_first = "discriminators"
    config.discriminator_steps = "real_then_fake"
    config.optimizer.name = "keras_adam"
    config.schedule.name = "constant"
    config.schedule.constant_epochs = 101
    config.schedule.decay_epochs = 99

    config.data.source = "folder"
    config.data.load_size = 256
    config.data.crop_size = 256
    config.data.flip = False
    return config
