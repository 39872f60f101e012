"""Devices and processes: joining them, compiling the update for them, and sharding batches."""

import contextlib
import functools
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cyclegan_jax.losses import Metrics
from cyclegan_jax.state import KEY_TYPE, TrainState
from cyclegan_jax.step import Batch, CycleGAN, train_step
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.memory import release_free_memory

# Seconds that the first process of a run waits for the others.
PATIENCE = 300.0

# Seconds without a sign of life after which JAX takes a process for dead and ends the others.
HEARTBEAT = 40

DEVICE_AXIS = "batch"


def join_processes(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    launched: bool = False,
    patience: float = PATIENCE,
) -> None:
    """Connect this process to the others of a run, before JAX is first used.

    Without arguments the process stays single.

    Args:
        coordinator: HOST:PORT of process 0, reachable by all processes.
        num_processes: Number of processes.
        process_id: Index of this process.
        launched: Whether to find these three from SLURM or Open MPI.
        patience: Seconds to wait for the others, after which the process exits with one line.

    Raises:
        UserError: The arguments are inconsistent, the address cannot be used, or there is no
            launcher.
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
        raise UserError(
            "--distributed: expected without --coordinator, --num_processes and --process_id, "
            "which it determines itself"
        )
    if not launched:
        if missing:
            raise UserError(
                f"{missing[0]} is missing: several processes need --coordinator=HOST:PORT, "
                "--num_processes and --process_id, or --distributed under SLURM or Open MPI"
            )
        _check_address(*given.values())
    # Signals are handled by `utils.interrupt`, in all processes together.
    jax.config.update("jax_enable_preemption_service", False)
    # JAX itself would abort with fifty lines of output.
    timer = threading.Timer(patience, _give_up, (coordinator, patience))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=int(patience) + 60,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except Exception as error:
        where = (
            "--distributed: expected SLURM or Open MPI, found neither; use "
            "--coordinator=HOST:PORT, --num_processes and --process_id instead"
            if launched
            else f"--coordinator={coordinator}"
        )
        raise UserError(f"{where} ({' '.join(str(error).split())[:200]})") from error
    finally:
        timer.cancel()


def _check_address(coordinator: Any, num_processes: Any, process_id: Any) -> None:
    address = re.fullmatch(r"\[?([^\[\]]+)\]?:(\d+)", coordinator)
    if address is None or not 0 < int(address[2]) < 2**16:
        raise UserError(f"--coordinator={coordinator}: expected HOST:PORT, such as 10.0.0.1:29500")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id}: expected 0 to {num_processes - 1} with "
            f"--num_processes={num_processes}"
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
        f"error: not all processes of this run connected {where}within {patience:.0f} s; check "
        "that all are started and can reach that host and port",
        file=sys.stderr,
    )
    sys.stderr.flush()
    os._exit(1)


def leave(message: str) -> NoReturn:
    """Exit with a line on standard error and exit code 1, without the interpreter's own end.

    That would wait for threads: of Orbax, for ever when a write has failed, or, with several
    processes, of JAX for the others, which wait for this one.
    """
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(message, file=sys.stderr, flush=True)
    if jax.distributed.is_initialized() and jax.process_index() == 0:
        # Process 0 is the coordinator: without it JAX aborts the others with long messages. If all
        # fail for the same reason, this gives them time for their own message.
        time.sleep(3)
    os._exit(1)


def batch_axis(devices: int | None = None) -> str | None:
    """Return the name of the device axis that batches are sharded over; None on a single device.

    Args:
        devices: Number of devices to use of each process; None for all.
    """
    return None if _mesh(devices) is None else DEVICE_AXIS


class Placed(NamedTuple):
    """Batches of one or several updates, on the devices.

    Attributes:
        arrays: {a, b}, [B, H, W, C], for several updates [updates, B, H, W, C]. With several
            devices their number is the first axis, and B is the shard of one.
        updates: Number of updates.
    """

    arrays: Batch
    updates: int


def place(batches: Sequence[Batch], devices: int | None = None) -> Placed:
    """Start to transfer batches to the devices, in the layout of `compile_step`.

    Args:
        batches: Batches of consecutive updates, each this process's shard [B / processes, H, W, C].
        devices: As in `compile_step`.
    """
    several = len(batches) > 1
    arrays = {
        d: np.stack([batch[d] for batch in batches]) if several else batches[0][d]
        for d in batches[0]
    }
    mesh = _mesh(devices)
    if mesh is None:
        return Placed(jax.device_put(arrays), len(batches))

    def shard(x: Any) -> Any:
        if not several:
            return x.reshape(mesh.size, -1, *x.shape[1:])
        return x.reshape(len(batches), mesh.size, -1, *x.shape[2:]).swapaxes(0, 1)

    layout = NamedSharding(mesh, PartitionSpec(DEVICE_AXIS))
    return Placed(jax.device_put(jax.tree.map(shard, arrays), layout), len(batches))


def compile_step(
    model: CycleGAN, devices: int | None = None
) -> Callable[[TrainState, Batch | Placed], tuple[TrainState, Metrics]]:
    """Compile `train_step` with `jax.jit` for one device, or with `jax.pmap` for several.

    `jax.pmap` is `jax.jit` of `jax.shard_map` since JAX 0.8.

    The state stays one unstacked tree, replicated over devices, and is donated.

    Args:
        model: What to train; its `axis_name` is `batch_axis(devices)`.
        devices: Number of devices to use of each process; None for all.

    Returns:
        A function of a state and of what `place` returned, or of the batch of one update, which it
        places. It does the updates of all batches placed; metrics of several are [updates].
    """
    mesh = _mesh(devices)
    if model.axis_name != batch_axis(devices):
        raise ValueError(f"axis_name: expected {batch_axis(devices)}, got {model.axis_name}")
    step = functools.partial(train_step, model=model)

    def transform(update: Callable[..., Any]) -> Callable[..., Any]:
        if mesh is None:
            return _compiled_apart(jax.jit(update, donate_argnums=0))
        return _with_plain_key(
            update,
            axis_name=DEVICE_AXIS,
            in_axes=(None, 0, None),
            out_axes=(None, None),
            donate_argnums=0,
            devices=None if devices is None else tuple(mesh.devices.flat),
        )

    def scan(state: TrainState, batches: Batch, frozen: Any) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(lambda state, batch: step(state, batch, frozen), state, batches)

    one, several, frozen = transform(step), transform(scan), model.losses.frozen

    def run(state: TrainState, batch: Batch | Placed) -> tuple[TrainState, Metrics]:
        placed = batch if isinstance(batch, Placed) else place([batch], devices)
        if mesh is not None:
            # Where an update leaves its result: a state placed elsewhere would compile it again.
            replicated = NamedSharding(mesh, PartitionSpec())
            if state.step.sharding != replicated:
                state = jax.device_put(state, replicated)
        return (one if placed.updates == 1 else several)(state, placed.arrays, frozen)

    return run


def _compiled_apart(function: Any) -> Callable[..., Any]:
    """Give the compiler's memory back before a jitted function runs for the first time.

    Args:
        function: Result of `jax.jit`; of its arguments, only the second may change its shapes.
    """
    compiled: dict[Any, Any] = {}

    def run(state: Any, batch: Any, frozen: Any) -> Any:
        shapes = tuple((x.shape, x.dtype) for x in jax.tree.leaves(batch))
        if shapes not in compiled:
            compiled[shapes] = function.lower(state, batch, frozen).compile()
            release_free_memory()
        return compiled[shapes](state, batch, frozen)

    return run


def _with_plain_key(
    update: Callable[..., Any], **options: Any
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Apply `jax.pmap` to an update, with the state's key passed as a plain array.

    With several processes pmap reads typed keys on the host: each call would wait for the update
    before.
    """

    def inner(state: TrainState, *args: Any) -> tuple[TrainState, Metrics]:
        state, metrics = update(_typed(state), *args)
        return state.replace(key=jax.random.key_data(state.key)), metrics

    mapped = jax.pmap(inner, **options)

    def outer(state: TrainState, *args: Any) -> tuple[TrainState, Metrics]:
        state, metrics = mapped(state.replace(key=jax.random.key_data(state.key)), *args)
        return _typed(state), metrics

    return outer


def _typed(state: TrainState) -> TrainState:
    return state.replace(key=jax.random.wrap_key_data(state.key, impl=KEY_TYPE))


def _mesh(devices: int | None) -> Mesh | None:
    """Return a mesh of `devices` of this process, or all; None for one device in all processes."""
    local = jax.local_devices()[:devices]
    single = len(local) * jax.process_count() == 1
    return None if single else Mesh(np.array(local), DEVICE_AXIS)


def mesh_of_all() -> Mesh:
    """Return a one-dimensional mesh of the devices of all processes."""
    return Mesh(np.array(jax.devices()), "devices")


def of_all_processes(tree: Any) -> Any:
    """Convert arrays that are equal in all processes to global arrays."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.host_local_array_to_global_array(tree, mesh_of_all(), PartitionSpec())


def of_first_process(state: TrainState) -> TrainState:
    """Return the state of process 0 in all processes.

    Other kinds of processors may round differently where each computes its own.
    """
    if jax.process_count() == 1:
        return state
    state = state.replace(key=jax.random.key_data(state.key))
    return _typed(jax.tree.map(jnp.asarray, multihost_utils.broadcast_one_to_all(state)))


def of_this_process(tree: Any) -> Any:
    """Convert global arrays to arrays of this process; the inverse of `of_all_processes`."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.global_array_to_host_local_array(tree, mesh_of_all(), PartitionSpec())
