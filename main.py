"""Train a CycleGAN: `python main.py --config configs/quickstart.py --workdir runs/quickstart`.

On several machines, or with several processes on one, start the same command once per process, with
`--distributed` under SLURM or Open MPI, else with `--coordinator`, `--num_processes` and
`--process_id`. All processes must see the same work directory.
"""

import contextlib
import logging as standard_logging
import signal
import sys
import traceback
from typing import Any

from cyclegan_jax.utils.memory import use_huge_pages

if __name__ == "__main__":
    use_huge_pages()  # before imports that take a second

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from cyclegan_jax import config as config_lib
from cyclegan_jax import distributed
from cyclegan_jax.utils import command
from cyclegan_jax.utils.compilation_cache import keep_compiled_programs
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.interrupt import InterruptedRun
from cyclegan_jax.utils.tensorflow import import_tensorflow

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, see configs/.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; an existing run is resumed.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, for several processes."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this process, from 0.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Find these three from SLURM or Open MPI.")


def main(argv: list[str]) -> None:
    """Check the configuration, connect the processes and train."""
    del argv
    config = config_lib.from_flag(CONFIG)
    distributed.join_processes(
        COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, launched=DISTRIBUTED.value
    )
    if jax.process_index() != 0:
        logging.set_verbosity(logging.WARNING)
    config_lib.check(config, jax.device_count())
    keep_compiled_programs()

    import_tensorflow()  # late, because it takes seconds
    from cyclegan_jax.training import train

    train(config, command.path(flags.FLAGS.workdir))


def save_memory() -> str:
    """Return advice for an update that does not fit into memory."""
    smaller = "lower batch_size, data.crop_size or generator.width"
    if jax.default_backend() == "cpu":  # pairs are processed one by one, and remat saves nothing
        return f"{smaller}; leave micro_batches unset"
    return (
        "raise micro_batches (the same update in parts), set generator.remat=True or "
        f"precision=bfloat16, or {smaller}"
    )


def quieten_libraries() -> None:
    """Remove messages of libraries that do not help the user from the log."""

    # Orbax and JAX log every step, and failures that we get as exceptions; keep their warnings.
    def is_useful(record: standard_logging.LogRecord) -> bool:
        # CLU repeats config.json, and the sizes of samples.
        if "[Hyperparameters]" in record.getMessage() or "Got images" in record.getMessage():
            return False
        from_library = any(name in record.pathname for name in ("orbax", "jax/_src", "asyncio"))
        return not from_library or record.levelno == standard_logging.WARNING

    # After a failed read or write of a checkpoint, TensorStore's threads report to an event loop
    # that Orbax has closed.
    def report_unraisable(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            sys.__unraisablehook__(unraisable)

    logging.get_absl_handler().addFilter(is_useful)
    sys.unraisablehook = report_unraisable


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    logging.set_verbosity(logging.INFO)
    quieten_libraries()
    try:
        app.run(main, flags_parser=config_lib.parse_flags)
    except InterruptedRun as stop:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)  # waits for the other processes
    except KeyboardInterrupt:  # before the first update
        command.leave(128 + signal.SIGINT)
    except UserError as error:
        distributed.leave(f"error: {error}")
    except Exception as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and command.lacks_memory(error):
            distributed.leave(f"error: an update does not fit into memory: {save_memory()}")
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        distributed.leave("error: this process failed, or another one is gone")
