"""The original CycleGAN on horses and zebras (Zhu et al. 2017, arXiv:1703.10593).

    python main.py --config configs/horse2zebra.py --workdir runs/horse2zebra

Images come from TFDS's `cycle_gan/horse2zebra` (1,067 horses and 1,334 zebras, about 110 MB,
fetched once), or from a folder that holds trainA, trainB, testA and testB:

    ... --config.data.source=folder --config.data.dir=FOLDER

ResNet-9 generators and 70x70 PatchGANs, 200 epochs of 1,334 pairs: 266,800 updates.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """The defaults are this system."""
    config = default.get_config()
    config.data.source = "tfds"
    config.data.name = "horse2zebra"
    return config
