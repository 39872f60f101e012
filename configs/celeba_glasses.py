r"""Glasses taken off and put on, on the faces of CelebA.

    python main.py --config configs/celeba_glasses.py --workdir runs/celeba_glasses \
        --config.data.dir=celeba

Data and system are those of `celeba_hair.py`. Any other attribute of the table, or its absence,
makes a domain in the same way: `--config.data.attribute_a=Smiling
--config.data.attribute_b=-Smiling`.
"""

from ml_collections import ConfigDict

from configs import celeba_hair


def get_config() -> ConfigDict:
    """Faces with glasses are domain A, those without are B."""
    config = celeba_hair.get_config()
    config.data.attribute_a = "Eyeglasses"
    config.data.attribute_b = "-Eyeglasses"
    return config
