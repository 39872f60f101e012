"""The original CycleGAN on any of the published datasets in TFDS.

    python main.py --config configs/tfds.py:maps --workdir runs/maps

An unknown name is an error that lists the datasets. Networks, losses and schedule are those of
`horse2zebra.py`.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(name: str = "") -> ConfigDict:
    """Return the configuration of the original CycleGAN on the dataset `name`."""
    config = default.get_config()
    config.data.source = "tfds"
    config.data.name = name
    return config
