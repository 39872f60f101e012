"""Several processes as one, and what a batch is split over."""

import os
import re
import socket
import sys
import threading
import time
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

from cyclegan_jax.utils.errors import UserError

# Seconds that the first process of a run waits for the last.
PATIENCE = 300.0

_SCHEDULES = ("log", "sample", "evaluate", "checkpoint", "backup")


def join_processes(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    launched: bool = False,
    patience: float = PATIENCE,
) -> None:
    """Makes this process one of several whose devices work as one; before JAX is first used.

    Where nothing is given it stays alone.

    Args:
        coordinator: HOST:PORT at which process 0 is to be found by all.
        num_processes: how many there are.
        process_id: which one this is.
        launched: find these three from SLURM or Open MPI.
        patience: seconds to wait for the others; after them the process ends, with one line.

    Raises:
        UserError: for arguments that do not fit together, an address that cannot be used, or where
            there is no launcher.
    """
    given = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [flag for flag, value in given.items() if value is None]
    if len(missing) == len(given) and not launched:
        return
    if launched and len(missing) < len(given):
        raise UserError("--distributed finds all by itself; leave it out, or the other three flags")
    if not launched:
        if missing:
            raise UserError(
                f"{missing[0]} is missing: a process among several needs --coordinator=HOST:PORT, "
                "--num_processes and --process_id, or --distributed under SLURM or Open MPI"
            )
        _check_place(*given.values())
    # A signal is answered by all processes together, and by us.
    jax.config.update("jax_enable_preemption_service", False)
    # JAX itself would end with an abort, and tell how that came about in fifty lines.
    timer = threading.Timer(patience, _give_up, (coordinator, patience))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, initialization_timeout=int(patience) + 60
        )
    except Exception as error:
        where = (
            "--distributed: neither SLURM nor Open MPI was found; give --coordinator=HOST:PORT, "
            "--num_processes and --process_id instead"
            if launched
            else f"--coordinator={coordinator}"
        )
        raise UserError(f"{where} ({' '.join(str(error).split())[:200]})") from error
    finally:
        timer.cancel()


def _check_place(coordinator: Any, num_processes: Any, process_id: Any) -> None:
    address = re.fullmatch(r"\[?([^\[\]]+)\]?:(\d+)", coordinator)
    if address is None or not 0 < int(address[2]) < 2**16:
        raise UserError(f"--coordinator={coordinator}: HOST:PORT was expected, as 10.0.0.1:29500")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id}: with --num_processes={num_processes} it must be at least "
            f"0 and below {num_processes}"
        )
    if process_id == 0:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", int(address[2])))
            except OSError as error:
                raise UserError(f"--coordinator={coordinator}: {error.strerror}") from error


def _give_up(coordinator: str | None, patience: float) -> None:
    where = f"at {coordinator} " if coordinator else ""
    print(
        f"error: the processes of this run did not all meet {where}within {patience:.0f} s; are "
        "all started, and can they reach that host and port?",
        file=sys.stderr,
    )
    sys.stderr.flush()
    os._exit(1)


def leave(message: str) -> NoReturn:
    """Ends the program with a line on standard error and exit code 1, also among several processes.

    There the end that JAX has in mind waits minutes for the others, who wait for this one.
    """
    if not jax.distributed.is_initialized():
        sys.exit(message)
    print(message, file=sys.stderr, flush=True)
    if jax.process_index() == 0:
        # With it the meeting point goes, and JAX aborts those still there at length. Where all made
        # the same mistake they have something better to say.
        time.sleep(3)
    os._exit(1)


def micro_batches(config: Any, pairs: int) -> int:
    """In how many parts so many pairs of a device go through the networks.

    Unless configured, one by one on CPUs, whose caches hold little more than that, and all at once
    elsewhere.
    """
    if config.micro_batches is not None:
        return config.micro_batches
    return pairs if jax.default_backend() == "cpu" and not _has_batch_norm(config) else 1


def _has_batch_norm(config: Any) -> bool:
    return "batch" in (config.generator.norm, config.discriminator.norm)


def check_split(config: Any) -> None:
    """Raises UserError where a batch, or a schedule, cannot be split as configured.

    Args:
        config: see `configs/default.py`.
    """
    devices, updates = jax.device_count(), config.steps_per_dispatch
    parts = config.micro_batches or 1
    if config.batch_size % devices:
        raise UserError(
            f"config.batch_size is {config.batch_size}; it must be a multiple of the {devices} "
            "devices (CUDA_VISIBLE_DEVICES chooses fewer)"
        )
    if config.batch_size // devices % parts:
        raise UserError(
            f"config.micro_batches is {parts}; it must divide the {config.batch_size // devices} "
            "pairs of a device"
        )
    if parts > 1 and _has_batch_norm(config):
        raise UserError(
            f"config.micro_batches is {parts}, but batch norm needs the batch in one; set it to 1, "
            "or choose another norm"
        )
    for name in _SCHEDULES:
        every = config[f"{name}_every_steps"]
        if every % updates:
            raise UserError(
                f"config.{name}_every_steps is {every}; with steps_per_dispatch={updates} it must "
                "be a multiple of that"
            )
    if updates > 1 and config.sample_early:
        raise UserError(
            f"config.sample_early shows single steps; it needs steps_per_dispatch=1, not {updates}"
        )


def mesh_of_all() -> Mesh:
    """The devices of all processes in one row."""
    return Mesh(np.array(jax.devices()), "devices")


def of_all_processes(tree: Any) -> Any:
    """Arrays that all processes share, from those that each has of its own, alike."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.host_local_array_to_global_array(tree, mesh_of_all(), PartitionSpec())


def of_this_process(tree: Any) -> Any:
    """The reverse of `of_all_processes`."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.global_array_to_host_local_array(tree, mesh_of_all(), PartitionSpec())
