"""Entry point of `python -m cyclegan_jax.torch_weights`."""

from cyclegan_jax.torch_weights.program import main
from cyclegan_jax.utils import command

command.run(main, "the networks do not fit into memory")
