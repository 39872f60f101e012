"""Every field with its default, the published CycleGAN on horse2zebra.

The fields are documented in `cyclegan_jax/default_config.py`; the other files here change only what
differs. Any field is overridden on the command line:

    python main.py --config configs/default.py --workdir DIR --config.batch_size=4
"""

from cyclegan_jax.default_config import get_config

__all__ = ["get_config"]
