r"""A compact CycleGAN on horses and zebras: short residual blocks, crops of 224x224.

    python main.py --config configs/horse2zebra_224.py --workdir runs/horse2zebra_224 \
        --config.data.dir=horse2zebra

Reproduces: seven residual blocks of one convolution each, LeakyReLU throughout, instance norm with
scale and offset, in the discriminators' first layer as well. Discriminators are updated first, the
learning rate is constant, and there is no image pool.

Data: the 256x256 images of the archive `horse2zebra.zip` that the authors of CycleGAN publish
(people.eecs.berkeley.edu/~taesung_park/CycleGAN/datasets), with the lists `trainA.txt` and
`trainB.txt` beside its folders, one image per line (`trainA/n02381460_2.jpg`). Without lists the
folders themselves are read. `testA` provides the one image that all samples show.

Result: 20,000 updates. A finished run continues with more: `--config.num_steps=40000`.

Deviations: both generators are updated together, and gradients of a loss for other networks are
dropped. The published code clears a network's gradients only after the network's own step, so that
its discriminators learn to accept translated images, too; in a scaled-down run it did not learn to
translate (see docs/recipes.md). A and B are paired by their position in the lists, not once at
random (so the end of the longer list is never used).
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Return the configuration (parameters: generator 4,891,523, discriminator 2,765,761)."""
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
