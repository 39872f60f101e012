r"""Two folders of one's own images, trained as the original.

    python main.py --config configs/folder.py --workdir runs/mine \
        --config.data.train_a=IMAGES_A --config.data.train_b=IMAGES_B

or one folder that holds trainA, trainB and, if there are any, testA and testB:

    python main.py --config configs/folder.py --workdir runs/mine --config.data.dir=FOLDER
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """The original's networks and schedule."""
    config = default.get_config()
    config.data.source = "folder"
    return config
