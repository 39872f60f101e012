"""The original CycleGAN on horses and zebras (Zhu et al. 2017, arXiv:1703.10593).

    python main.py --config configs/horse2zebra.py --workdir runs/horse2zebra

Reproduces: ResNet-9 generators and 70x70 PatchGAN discriminators with the published losses, image
pool and schedule.

Data: `cycle_gan/horse2zebra` of TFDS (1,067 horses and 1,334 zebras, about 110 MB, downloaded at
the first start), or a folder that holds trainA, trainB, testA and testB:

    ... --config.data.source=folder --config.data.dir=FOLDER

Result: 200 epochs of 1,334 pairs, 266,800 updates.

The learning rate follows the published code up to July 2020. Later versions of that code begin the
decay one epoch earlier, and their last epoch has learning rate 0:

    ... --config.schedule.stepped_first=True
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Return the default configuration, which is this system."""
    config = default.get_config()
    config.data.source = "tfds"
    config.data.name = "horse2zebra"
    return config
