"""What is kept of a run: Orbax checkpoints of the train state, each with its configuration."""

import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    EveryNSteps,
    LatestN,
)

from cyclegan_jax import config as config_lib
from cyclegan_jax import distributed
from cyclegan_jax.best import Best, KeptBest, read_best, write_best
from cyclegan_jax.state import TrainState
from cyclegan_jax.utils.command import lacks_memory
from cyclegan_jax.utils.errors import UserError


class Checkpoints:
    """The checkpoints of one work directory, in `WORKDIR/checkpoints/STEP`.

    Saving is asynchronous: the state may be donated as soon as `save` returns, and `wait` comes
    before leaving. A checkpoint appears under its name only when it is complete.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        keep: int | None = None,
        backup_every: int = 0,
        read_only: bool = False,
    ):
        """Opens what is there.

        Args:
            workdir: of the run.
            keep: how many of the newest stay; None for all.
            backup_every: multiples of so many steps stay as well; so does the best.
            read_only: whether nothing is to be made or cleaned up.
        """
        self.folder = workdir / "checkpoints"
        self._best_path = workdir / "best.json"
        self._keep = keep
        self._backup_every = backup_every
        self._read_only = read_only
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        policies: list[Any] = [LatestN(self._keep), KeptBest(self._best_path)]
        if self._backup_every:
            policies.append(EveryNSteps(self._backup_every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(policies),
            create=not self._read_only,
            cleanup_tmp_directories=not self._read_only,
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "config": ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(
            self.folder.absolute(), item_handlers=handlers, options=options
        )

    @property
    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, config: ConfigDict) -> None:
        """Begins to write the state; does nothing where its step is already there.

        Raises:
            UserError: where this or the write before it failed, as on a full disk.
        """
        step = int(state.step)
        if step in self.steps:
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(distributed.of_all_processes(state)),
            config=ocp.args.JsonSave(config.to_dict()),
        )
        try:
            self._manager.save(step, args=items, force=True)
        except Exception as error:
            raise self._failure(error) from error

    @property
    def best(self) -> Best | None:
        """The best checkpoint as `keep_as_best` left it; None where there is none."""
        return read_best(self._best_path)

    def keep_as_best(
        self, state: TrainState, config: ConfigDict, figure: str, value: float | None
    ) -> None:
        """Saves the state if need be, and keeps it until another is the best.

        Args:
            state: after an update.
            config: of the run.
            figure: name of what it is the best in.
            value: of that figure; processes other than the first need not know it.

        Raises:
            UserError: as `save`.
        """
        self.save(state, config)
        self.wait()  # the one before stays until this is there
        if jax.process_index() == 0:
            assert value is not None
            best = Best(int(state.step), figure, value)
            logging.info("The best checkpoint so far is %d: %s %.4g", best.step, figure, value)
            try:
                write_best(self._best_path, best)
            except OSError as error:
                raise self._failure(error) from error

    def wait(self) -> None:
        """Returns when all that was saved is on disk. Raises UserError as `save`."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Ends Orbax's threads; after `wait` there is nothing that could fail."""
        try:
            self._manager.close()
        except Exception as error:
            logging.error("%s", self._failure(error))

    def restore(self, template: TrainState, config: ConfigDict) -> TrainState | None:
        """The newest state that can be read, on all devices; None where there never was one.

        Where the newest is damaged the one before it is tried. Once one is read, those that could
        not be are moved to `damaged/STEP`; where none is, all stay, for it may not be their fault.

        Args:
            template: a state, or the shapes of one, of this configuration.
            config: of the run that goes on.

        Raises:
            UserError: for checkpoints of another architecture, or where none can be read.
        """
        steps, damaged = self.steps, list[int]()
        for step in reversed(steps):
            try:
                state = self.restore_step(step, template, config)
            except DamagedCheckpointError as error:
                logging.warning("%s; trying the one before", error)
                damaged.append(step)
                continue
            for other in damaged if not self._read_only else ():
                logging.warning("checkpoint %d is moved to %s", other, self._set_aside(other))
            return state
        if steps:
            raise UserError(
                f"{self.folder}: none of its checkpoints {steps} can be read; to start from "
                "scratch choose another work directory"
            )
        return None

    def restore_step(self, step: int, template: Any, config: ConfigDict) -> Any:
        """What that step holds, in the shape of the template.

        Raises:
            UserError: for networks of another architecture.
            DamagedCheckpointError: where it cannot be read.
        """
        stored = self.read_config(step)
        where = f"checkpoint {self.folder / str(step)}"
        config_lib.check_same_architecture(config, stored, where)
        everywhere = NamedSharding(distributed.mesh_of_all(), PartitionSpec())
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), template
        )
        self._check_shapes(step, template)
        try:
            items = ocp.args.Composite(state=ocp.args.StandardRestore(shapes))
            state = self._manager.restore(step, args=items)["state"]
        except Exception as error:
            if lacks_memory(error):
                raise
            raise DamagedCheckpointError(f"{where} cannot be read ({_short(error)})") from error
        return distributed.of_this_process(state)

    def restore_params(
        self, config: ConfigDict, checkpoint: str | int = "latest", *, averaged: bool = False
    ) -> tuple[int, dict[str, Any]]:
        """The networks of a checkpoint, whatever else is in it.

        Args:
            config: of the run that will use them.
            checkpoint: latest (that can be read), best, or a step.
            averaged: whether the generators are to be their running averages, where it has any.

        Returns:
            Its step, and {gen_ab, gen_ba, disc_a, disc_b}.

        Raises:
            UserError: where there is no such checkpoint, or one of another architecture.
        """
        step = self._step(checkpoint)
        for candidate in reversed(self.steps) if step is None else (step,):
            try:
                shapes = self._metadata(candidate)
                state = self.restore_step(candidate, shapes, config)
                average = (averaged and state.get("average")) or {}
                return candidate, state["params"] | average
            except DamagedCheckpointError as error:
                if step is not None:
                    raise
                logging.warning("%s; trying the one before", error)
        raise UserError(f"{self.folder}: no checkpoint that can be read")

    def _step(self, checkpoint: str | int) -> int | None:
        """The step that is meant; None for the latest."""
        if checkpoint == "latest":
            return None
        if checkpoint == "best":
            if self.best is None:
                raise UserError(f"{self.folder.parent}: the run kept no best checkpoint")
            checkpoint = self.best.step
        try:
            step = int(checkpoint)
        except ValueError:
            raise UserError(f"checkpoint {checkpoint!r}; choose latest, best or a step") from None
        if step not in self.steps:
            there = ", ".join(map(str, self.steps)) or "none"
            raise UserError(f"{self.folder}: no checkpoint of step {step}; there are {there}")
        return step

    def read_config(self, step: int) -> ConfigDict:
        """The configuration stored with a step."""
        where = f"checkpoint {self.folder / str(step)}"
        try:
            items = ocp.args.Composite(config=ocp.args.JsonRestore())
            values: dict[str, Any] = self._manager.restore(step, args=items)["config"]
        except Exception as error:
            raise DamagedCheckpointError(f"{where} cannot be read ({_short(error)})") from error
        return config_lib.from_dict(values, where)

    def _metadata(self, step: int) -> Any:
        """The tree of a step's state, with shapes and types for arrays."""
        try:
            found = self._manager.item_metadata(step)["state"]
            if found is None:
                raise ValueError("its state is not there")
        except Exception as error:
            where = f"checkpoint {self.folder / str(step)}"
            raise DamagedCheckpointError(f"{where} cannot be read ({_short(error)})") from error
        return found

    def _check_shapes(self, step: int, template: Any) -> None:
        """Raises UserError where arrays of the checkpoint have other shapes than the template's.

        The networks agree by then: it is the pools whose images or number are others, or that
        averages are kept.
        """
        where = f"checkpoint {self.folder / str(step)}"
        kept, made = _shapes(self._metadata(step)), _shapes(template)
        for name in sorted(kept.keys() | made.keys()):
            if kept.get(name) != made.get(name):
                raise UserError(
                    f"{where}: {name} is {kept.get(name, 'not there')}, but this configuration "
                    f"makes it {made.get(name, 'none')}; keep pool_size, average_decay and the "
                    "size of images, or start another run with init_from"
                )

    def _set_aside(self, step: int) -> Path:
        """Moves a checkpoint out of the way, so that its step can be saved anew."""
        target = self.folder.parent / "damaged" / str(step)
        while target.exists():
            target = target.with_name(target.name + "_")
        target.parent.mkdir(exist_ok=True)
        if jax.process_index() == 0:
            shutil.move(self.folder / str(step), target)
        self._manager.close()
        self._manager = self._open()
        return target

    def _failure(self, error: Exception) -> UserError:
        good = f"the last good one is {self.steps[-1]}" if self.steps else "there is none yet"
        return UserError(
            f"{self.folder}: a checkpoint could not be written ({_short(error)}); {good}"
        )


class DamagedCheckpointError(UserError):
    """A checkpoint that is there but cannot be read."""


def _name(path: Any) -> str:
    """A path in a tree as words, alike for attributes and for keys of dictionaries."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _shapes(state: Any) -> dict[str, list[int]]:
    """{name: shape} of the arrays in networks and pools."""
    return {
        name: list(leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(state)
        if (name := _name(path)).startswith(("params.", "pools.", "average."))
        and hasattr(leaf, "shape")
    }


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
