"""Trains a CycleGAN: `python main.py --config configs/quickstart.py --workdir runs/quickstart`."""

import logging as std_logging
import sys
from pathlib import Path

import tensorflow as tf
from absl import app, flags, logging
from ml_collections import config_flags

from cyclegan_jax import config as config_lib
from cyclegan_jax.errors import UserError
from cyclegan_jax.interrupt import InterruptedRun
from cyclegan_jax.train import train

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
flags.DEFINE_string("workdir", None, "Folder of this run; given again, the run goes on.")


def main(argv: list[str]) -> int:
    """Trains and says with its exit code how that went."""
    del argv
    # TensorFlow only writes event files and reads published sets; the GPU's memory is JAX's.
    tf.config.set_visible_devices([], "GPU")
    try:
        train(CONFIG.value, Path(flags.FLAGS.workdir))
    except InterruptedRun as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signum
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    logging.set_verbosity(logging.INFO)
    # Orbax tells every step of its own at this level; its warnings stay.
    logging.get_absl_handler().addFilter(
        lambda record: record.levelno > std_logging.INFO or "orbax" not in record.pathname
    )
    app.run(main, flags_parser=config_lib.parse_flags)
