"""Which checkpoint of a run is the best, and that it stays."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from cyclegan_jax.utils.errors import UserError


class Best(NamedTuple):
    """The step of the best checkpoint, and the figure and value by which it is that."""

    step: int
    figure: str
    value: float


def read_best(path: Path) -> Best | None:
    """What `write_best` left there; None where there is nothing.

    Raises:
        UserError: the file is something else.
    """
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_text())
        return Best(int(kept["step"]), str(kept["figure"]), float(kept["value"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: names no best checkpoint; delete it") from error


def write_best(path: Path, best: Best) -> None:
    """Replaces the file, which is whole at any time. Raises OSError."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(best._asdict(), indent=2) + "\n")
    temporary.replace(path)


class KeptBest(PreservationPolicy):
    """Keeps the best checkpoint there is at the time."""

    def __init__(self, path: Path):
        """Takes the file of `write_best`, which may be there later."""
        self._path = path

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        """For each checkpoint, oldest first."""
        del context
        best = read_best(self._path)
        return [best is not None and checkpoint.step == best.step for checkpoint in checkpoints]
