"""Orbax checkpoints of the train state, each with the configuration of its run."""

import contextlib
import json
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    EveryNSteps,
    LatestN,
    PreservationPolicy,
)

from cyclegan_jax import config as config_lib
from cyclegan_jax import distributed
from cyclegan_jax.state import TrainState
from cyclegan_jax.utils.command import lacks_memory
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.text import printable

# Parts of the state whose arrays must have the shapes that the configuration gives them.
_SHAPED = ("params.", "pools.", "average.", "optimizers.")


def check_name(workdir: Path) -> None:
    """Raise UserError if the path is not UTF-8, which Orbax needs to read and write."""
    path = str(workdir.absolute())
    if printable(path) != path:
        raise UserError(f"work directory {printable(path)}: expected a name in UTF-8; rename it")


class DamagedCheckpointError(UserError):
    """A checkpoint that exists but cannot be read."""


class Best(NamedTuple):
    """The best checkpoint of a run.

    Attributes:
        step: Its step.
        metric: The metric by which it was chosen.
        value: The value of that metric.
    """

    step: int
    metric: str
    value: float


def _wait_for_others(*, key: str, timeout_ms: int) -> None:
    """Wait for the other processes, unless this one has failed.

    Orbax also waits in a `finally` after an error of its own, for up to twenty minutes, in which
    nobody learns of it.
    """
    if sys.exc_info()[0] is None:
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


class Checkpoints:
    """The checkpoints of a work directory, in `WORKDIR/checkpoints/STEP`.

    Saving is asynchronous: the state may be donated as soon as `save` returns; call `wait` before
    the process exits. A checkpoint appears under its name only when it is complete.
    """

    def __init__(
        self,
        workdir: Path,
        config: dict[str, Any] | None = None,
        *,
        keep: int | None = None,
        backup_every: int = 0,
        read_only: bool = False,
    ):
        """Open the checkpoints of a run.

        Args:
            workdir: Work directory of the run.
            config: Configuration of the run as plain values. It is stored with each checkpoint,
                and only checkpoints of its architecture are restored; None restores any.
            keep: Number of latest checkpoints to keep; None for all.
            backup_every: Multiples of this step are kept as well. So is the best checkpoint.
            read_only: Whether to create and delete nothing.

        Raises:
            UserError: `best.json` of an earlier version cannot be read, or the name of the work
                directory is not UTF-8.
        """
        check_name(workdir)
        self._folder = workdir / "checkpoints"
        self._config = config
        self._keep = keep
        self._backup_every = backup_every
        self._read_only = read_only
        self._open()

    def _open(self) -> None:
        policies = [LatestN(self._keep), _KeepBest(lambda: self.best)]
        if self._backup_every:
            policies.append(EveryNSteps(self._backup_every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(policies),
            create=not self._read_only,
            cleanup_tmp_directories=not self._read_only,
            async_options=ocp.AsyncOptions(barrier_sync_fn=_wait_for_others),
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "config": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(
            self._folder.absolute(), item_handlers=handlers, options=options
        )
        self._best = None if self._read_only else self._find_best()

    @property
    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in ascending order."""
        return sorted(self._manager.all_steps())

    @property
    def best(self) -> Best | None:
        """The best checkpoint, None if there is none.

        Raises:
            UserError: `best.json` of an earlier version cannot be read.
        """
        return self._find_best() if self._read_only else self._best

    def _find_best(self) -> Best | None:
        # Each best checkpoint was better than those before, so the latest is the best.
        for step in reversed(self.steps):
            try:
                metadata = self._metadata(step)
            except DamagedCheckpointError as error:
                logging.warning("%s; it does not count as the best", error)
                continue
            if "best" in metadata:
                return Best(step, **metadata["best"])
        best = _read_best(self._folder.parent / "best.json")
        return best if best is not None and best.step in self.steps else None

    def save(self, state: TrainState, *, best: tuple[str, float] | None = None) -> None:
        """Start to write a checkpoint, unless there is one of the state's step.

        Args:
            state: State after an update.
            best: Metric and value if the state is the best so far. Its checkpoint is kept until
                another is saved as the best. Only process 0 needs the value.

        Raises:
            UserError: This or the previous checkpoint could not be written, for example because
                the disk is full.
        """
        step = int(state.step)
        if step in self.steps:
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(distributed.of_all_processes(state)),
            config=ocp.args.JsonSave(self._config),
        )
        # TensorStore checks its index, but not the arrays' own bytes.
        metadata: dict[str, Any] = {
            "checksums": {"state": _checksum(state), "config": _checksum_of_json(self._config)}
        }
        if best is not None:
            # Orbax's own metrics do not fit: a damaged file of them in one checkpoint keeps
            # CheckpointManager from opening, and BestN ranks by one metric in one direction, which
            # a run may change when it is resumed.
            self._best = Best(step, *best)
            metadata["best"] = {"metric": self._best.metric, "value": self._best.value}
        with self._writing():
            self._manager.save(step, args=items, custom_metadata=metadata, force=True)

    def wait(self) -> None:
        """Wait until all checkpoints are written; raises UserError like `save`."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """End Orbax's threads. After `wait` this cannot fail."""
        try:
            with self._writing():
                self._manager.close()
        except UserError as error:
            logging.error("%s", error)

    def restore(self, template: TrainState) -> TrainState | None:
        """Return the latest readable state, replicated over all devices; None if there is none.

        Damaged checkpoints are skipped, and moved to `damaged/STEP` once an earlier one is read. If
        none can be read all stay, since the cause may lie elsewhere.

        Args:
            template: A state, or the shapes of one.

        Raises:
            UserError: A checkpoint has another architecture, or none can be read.
        """
        steps, damaged = self.steps, list[int]()
        for step in reversed(steps):
            try:
                state = self._restore_step(step, template)
            except DamagedCheckpointError as error:
                logging.warning("%s; trying the one before", error)
                damaged.append(step)
                continue
            for other in damaged if not self._read_only else ():
                logging.warning("Checkpoint %d was moved to %s", other, self._set_aside(other))
            return state
        if steps:
            raise UserError(
                f"{self._folder}: none of its checkpoints {steps} can be read; to start from "
                "scratch choose another work directory"
            )
        return None

    def restore_params(
        self, checkpoint: str | int = "latest", *, averaged: bool = False
    ) -> tuple[int, dict[str, Any]]:
        """Return the networks of a checkpoint, independent of what else it holds.

        Args:
            checkpoint: "latest" (readable one), "best" or a step.
            averaged: Whether to return running averages of the generators if there are any.

        Returns:
            The step, and {gen_ab, gen_ba, disc_a, disc_b}.

        Raises:
            UserError: There is no such checkpoint, or it has another architecture.
        """
        latest = checkpoint == "latest"
        for step in reversed(self.steps) if latest else [self._step(checkpoint)]:
            try:
                state = self._restore_step(step)
                average = (averaged and state.get("average")) or {}
                return step, state["params"] | average
            except DamagedCheckpointError as error:
                if not latest:
                    raise
                logging.warning("%s; trying the one before", error)
        raise UserError(f"{self._folder}: expected a readable checkpoint, found none")

    def read_config(self, step: int) -> ConfigDict:
        """Return the configuration stored with a checkpoint.

        Raises:
            DamagedCheckpointError: It cannot be read.
            UserError: It has unknown fields.
        """
        with self._reading(step) as name:
            items = ocp.args.Composite(config=ocp.args.JsonRestore())
            values: dict[str, Any] = self._manager.restore(step, args=items)["config"]
        self._check(step, "config", _checksum_of_json(values))
        return config_lib.from_dict(values, name)

    def _restore_step(self, step: int, template: Any = None) -> Any:
        """Return the state of a step as arrays on all devices.

        Args:
            step: Step of a checkpoint.
            template: A tree of the state's shapes and types; None for those stored.

        Raises:
            UserError: The checkpoint has another architecture or other shapes.
            DamagedCheckpointError: The checkpoint cannot be read.
        """
        config = self.read_config(step)
        if self._config is not None:
            config_lib.check_same_architecture(self._config, config, self._name(step))
        with self._reading(step):
            stored = self._manager.item_metadata(step)["state"]
            if stored is None:
                raise ValueError("no state")
        if template is None:
            template = stored
        _check_same_shapes(stored, template, self._name(step))
        replicated = NamedSharding(distributed.mesh_of_all(), PartitionSpec())
        template = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), template
        )
        with self._reading(step):
            items = ocp.args.Composite(state=ocp.args.StandardRestore(template))
            state = self._manager.restore(step, args=items)["state"]
        state = distributed.of_this_process(state)
        self._check(step, "state", _checksum(state))
        return state

    def _metadata(self, step: int) -> dict[str, Any]:
        """Return what was saved beside a checkpoint's state and configuration.

        Raises:
            DamagedCheckpointError: It cannot be read.
        """
        with self._reading(step):
            return self._manager.metadata(step).custom_metadata or {}

    def _check(self, step: int, item: str, checksum: int) -> None:
        """Raise DamagedCheckpointError if an item differs from what was saved."""
        # Checkpoints of earlier versions have no checksums.
        saved = self._metadata(step).get("checksums", {}).get(item, checksum)
        if saved != checksum:
            raise DamagedCheckpointError(
                f"{self._name(step)} cannot be read (its {item} differs from what was saved)"
            )

    def _step(self, checkpoint: str | int) -> int:
        """Return the step that "best", or a step as text, refers to."""
        if checkpoint == "best":
            best = self.best
            if best is None:
                raise UserError(f"{self._folder}: expected a best checkpoint, found none")
            return best.step
        try:
            step = int(checkpoint)
        except ValueError:
            raise UserError(
                f"checkpoint: expected latest, best or a step, got {checkpoint!r}"
            ) from None
        if step not in self.steps:
            listed = ", ".join(map(str, self.steps)) or "none, since there is no checkpoint"
            raise UserError(
                f"{self._folder}: no checkpoint of step {step}; expected one of {listed}"
            )
        return step

    def _name(self, step: int) -> str:
        return f"checkpoint {self._folder / str(step)}"

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[str]:
        """Provide the checkpoint's name, and raise DamagedCheckpointError for Orbax's errors."""
        name = self._name(step)
        try:
            yield name
        except Exception as error:
            if lacks_memory(error):
                raise
            raise DamagedCheckpointError(f"{name} cannot be read ({_short(error)})") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Raise UserError for Orbax's errors."""
        try:
            yield
        except Exception as error:
            good = f"the last good one is {self.steps[-1]}" if self.steps else "there is none yet"
            raise UserError(
                f"{self._folder}: a checkpoint could not be written ({_short(error)}); {good}"
            ) from error

    def _set_aside(self, step: int) -> Path:
        """Move a checkpoint to `damaged`, so that its step can be saved again."""
        target = self._folder.parent / "damaged" / str(step)
        while target.exists():
            target = target.with_name(target.name + "_")
        target.parent.mkdir(exist_ok=True)
        if jax.process_index() == 0:
            shutil.move(self._folder / str(step), target)
        self._manager.close()
        self._open()
        return target


class _KeepBest(PreservationPolicy):
    """Preserves the best checkpoint."""

    def __init__(self, best: Callable[[], Best | None]):
        self._best = best

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        del context
        best = self._best()
        return [best is not None and checkpoint.step == best.step for checkpoint in checkpoints]


def _checksum(state: Any) -> int:
    """Return the CRC-32 of all names and arrays in a state, or in what was restored of one."""
    checksum = 0
    for name, leaf in sorted(_named(state)):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(leaf).reshape(-1)
        checksum = zlib.crc32(array.view(np.uint8).data, zlib.crc32(name.encode(), checksum))
    return checksum


def _checksum_of_json(values: Any) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def _named(state: Any) -> list[tuple[str, Any]]:
    """Return (name, leaf) of all leaves, with the same names for a state and for its dictionary."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in jax.tree.leaves_with_path(state)
    ]


def _read_best(path: Path) -> Best | None:
    """Read `best.json`, in which earlier versions recorded the best checkpoint."""
    if not path.is_file():
        return None
    try:
        best = json.loads(path.read_text())
        return Best(int(best["step"]), str(best["figure"]), float(best["value"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: expected a step and its metric; delete the file") from error


def _check_same_shapes(stored: Any, template: Any, name: str) -> None:
    """Raise UserError if the states differ in shape; `name` is the checkpoint's.

    Networks of one architecture agree, so it is the pools (number or size of images), averages or
    optimisers.
    """
    before, now = _shapes(stored), _shapes(template)
    for leaf in sorted(before.keys() | now.keys()):
        if before.get(leaf) != now.get(leaf):
            shapes = f"expected {now.get(leaf, 'none')}, got {before.get(leaf, 'none')}"
            raise UserError(
                f"{name}: {leaf}: {shapes}; keep pool_size, average_decay, the optimizer, "
                "loss.identity_step and the size of images, or start another run with init_from"
            )


def _shapes(state: Any) -> dict[str, list[int]]:
    """Return {name: shape} of the arrays in networks, pools, averages and optimisers."""
    return {
        name: list(leaf.shape)
        for name, leaf in _named(state)
        if name.startswith(("params.", "pools.", "average.", "optimizers."))
        and hasattr(leaf, "shape")
    }


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
