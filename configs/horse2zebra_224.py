r"""A compact CycleGAN on horses and zebras: short residual blocks, crops of 224x224.

    python main.py --config configs/horse2zebra_224.py --workdir runs/horse2zebra_224 \
        --config.data.dir=horse2zebra

It expects the 256x256 images of the archive `horse2zebra.zip` that the original's authors publish
(people.eecs.berkeley.edu/~taesung_park/CycleGAN/datasets), and beside its folders the lists
`trainA.txt` and `trainB.txt` with an image a line (`trainA/n02381460_2.jpg`); without lists the
folders themselves are read. `testA` gives the one image that is shown all the way.

Seven blocks of one convolution each, LeakyReLU throughout, affine instance norm, also on the
discriminators' first layer. Discriminators move first; the learning rate is constant; there is no
history pool. A finished run goes on when it is given more steps: `--config.num_steps=40000`.

Three things are otherwise than in the system it follows: both generators move together on the sum
of their losses, gradients of one update do not leak into the next, and A and B are paired by their
places in the lists instead of at random once (so that a longer list's end is never seen).
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """4,891,523 parameters in a generator, 2,765,761 in a discriminator."""
    config = default.get_config()
    config.generator.variant = "resnet7_single"
    config.generator.norm = "instance_affine"
    config.discriminator.variant = "patch_normed"
    config.discriminator.norm = "instance_affine"

    config.loss.identity = 1.0
    config.pool_size = 0
    config.update_first = "discriminators"
    config.schedule.name = "constant"
    config.num_steps = 20_000

    config.data.source = "folder"
    config.data.transform = "crop"
    config.data.crop_size = 224
    config.data.flip = False
    config.data.pairing = "serial"
    config.data.epoch = "smaller"

    config.sample_every_steps = 500
    config.sample_early = True
    config.sample_images = 1
    config.sample_batch = True
    config.backup_every_steps = 2000
    return config
