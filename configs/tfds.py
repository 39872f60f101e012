"""Any of the published CycleGAN sets in TFDS, by name, trained as the original.

    python main.py --config configs/tfds.py:maps --workdir runs/maps

A wrong name lists those there are.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(name: str = "") -> ConfigDict:
    """The original's networks and schedule on the set of that name."""
    config = default.get_config()
    config.data.source = "tfds"
    config.data.name = name
    return config
