"""Trains a CycleGAN: `python main.py --config configs/quickstart.py --workdir runs/quickstart`.

On several machines, or several processes of one, the same command is started once for each process,
with `--distributed` under SLURM or Open MPI, else with `--coordinator`, `--num_processes` and
`--process_id`. All must see the same work directory.
"""

import logging as standard_logging
import os
import sys
import traceback
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from cyclegan_jax import config as config_lib
from cyclegan_jax import distributed
from cyclegan_jax.utils import command
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.interrupt import InterruptedRun

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run; given again, the run goes on.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where several processes train as one."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many there are.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Find these three from SLURM or Open MPI.")


def main(argv: list[str]) -> None:
    """Trains."""
    del argv
    config = config_lib.from_flag(CONFIG)
    distributed.join_processes(
        COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, launched=DISTRIBUTED.value
    )
    if jax.process_index() != 0:
        logging.set_verbosity(logging.WARNING)
    config_lib.check(config, jax.device_count())

    # Only now, for it takes seconds to load. It writes event files and reads published sets; the
    # GPU's memory is JAX's.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it would announce that at length
    import tensorflow as tf

    from cyclegan_jax.training import train

    tf.config.set_visible_devices([], "GPU")
    train(config, command.path(flags.FLAGS.workdir))


def save_memory() -> str:
    """What helps where an update does not fit."""
    smaller = "lower batch_size, data.crop_size or generator.width"
    if jax.default_backend() == "cpu":  # pairs go one by one by themselves, and remat saves nothing
        return f"{smaller}; micro_batches, where it is set, is best left unset"
    return (
        "raise micro_batches (the same update in parts), set generator.remat=True or "
        f"precision=bfloat16, or {smaller}"
    )


def quieten_libraries() -> None:
    """Leaves in the log what a user can use."""

    # Orbax and JAX tell every step of theirs, and failures that reach us as exceptions as well;
    # only their warnings are news.
    def is_news(record: standard_logging.LogRecord) -> bool:
        # CLU says at length what is in config.json, and how large samples are.
        if "[Hyperparameters]" in record.getMessage() or "Got images" in record.getMessage():
            return False
        from_library = any(name in record.pathname for name in ("orbax", "jax/_src", "asyncio"))
        return not from_library or record.levelno == standard_logging.WARNING

    # When a file of a checkpoint cannot be read or written, threads of TensorStore go on reporting
    # to an event loop that Orbax has closed by then.
    def report_unraisable(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            sys.__unraisablehook__(unraisable)

    logging.get_absl_handler().addFilter(is_news)
    sys.unraisablehook = report_unraisable


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    logging.set_verbosity(logging.INFO)
    quieten_libraries()
    try:
        app.run(main, flags_parser=config_lib.parse_flags)
    except InterruptedRun as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)
    except UserError as error:
        distributed.leave(f"error: {error}")
    except Exception as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and command.lacks_memory(error):
            distributed.leave(f"error: an update does not fit into memory: {save_memory()}")
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        distributed.leave("error: this process cannot go on, or one of the others is gone")
