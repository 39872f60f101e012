"""Entry point of `python -m cyclegan_jax.gallery`."""

from cyclegan_jax.gallery.program import main
from cyclegan_jax.utils import command

command.run(main, "the images do not fit into memory: lower --images")
