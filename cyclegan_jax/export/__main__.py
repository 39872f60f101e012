"""Entry point of `python -m cyclegan_jax.export`."""

from cyclegan_jax.export.program import main
from cyclegan_jax.utils import command

command.run(main, "out of memory: the network is too large for this device")
