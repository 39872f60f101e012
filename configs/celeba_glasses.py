r"""Glasses removed and added, on the faces of CelebA.

    python main.py --config configs/celeba_glasses.py --workdir runs/celeba_glasses \
        --config.data.dir=celeba

Reproduces: the system of `celeba_hair.py` with another pair of attributes.

Data: as for `celeba_hair.py`. Any other attribute of the table, or its absence, defines a domain in
the same way: `--config.data.attribute_a=Smiling --config.data.attribute_b=-Smiling`.

Result: sample strips; there is no test set and there are no metrics.

Deviations: those of `celeba_hair.py`. The exercise that this system follows uses another set of
images, not CelebA's attribute.
"""

from ml_collections import ConfigDict

from configs import celeba_hair


def get_config() -> ConfigDict:
    """Return the configuration of `celeba_hair` with faces with glasses as A and without as B."""
    config = celeba_hair.get_config()
    config.data.attribute_a = "Eyeglasses"
    config.data.attribute_b = "-Eyeglasses"
    return config
