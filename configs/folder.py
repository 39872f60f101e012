r"""The original CycleGAN on your own images.

    python main.py --config configs/folder.py --workdir runs/mine \
        --config.data.train_a=IMAGES_A --config.data.train_b=IMAGES_B

or, with one folder that holds trainA, trainB and optionally testA and testB:

    python main.py --config configs/folder.py --workdir runs/mine --config.data.dir=FOLDER

Networks, losses and schedule are those of `horse2zebra.py`.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Return the configuration of the original CycleGAN with `data.source` folder."""
    config = default.get_config()
    config.data.source = "folder"
    return config
