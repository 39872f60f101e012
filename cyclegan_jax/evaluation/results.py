"""Values of metrics by name, stored in a work directory and shown as a table."""

import json
from pathlib import Path

import numpy as np

from cyclegan_jax.utils.atomic import TEMPORARY, write_text
from cyclegan_jax.utils.errors import UserError

# {name: value}, such as {"a_to_b/fid": 61.5}
Results = dict[str, float]


def value_of(name: str, results: Results) -> float:
    """Return the result called `name`, or the mean of those whose part after the last "/" it is.

    Raises:
        UserError: There is none.
    """
    values = [v for key, v in results.items() if name in (key, key.rpartition("/")[2])]
    if not values:
        raise UserError(
            f"config.evaluation.best: expected one of {', '.join(results)}, got {name!r}"
        )
    return float(np.mean(values))


def results_path(workdir: Path, step: int) -> Path:
    """Return the file that holds the results of a step."""
    return workdir / "evaluation" / f"{step}.json"


def read_results(workdir: Path) -> dict[int, Results]:
    """Read all results of a run, by step in ascending order.

    Raises:
        UserError: A file in the folder of results cannot be read as such.
    """
    stored = {}
    for path in (workdir / "evaluation").glob("*.json"):
        if path.name.startswith(TEMPORARY):
            continue
        try:
            values = json.loads(path.read_text())
            stored[int(path.stem)] = {str(k): float(v) for k, v in values.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: expected the results of a step; delete it or move it away"
            ) from error
    return dict(sorted(stored.items()))


def write_results(workdir: Path, step: int, results: Results) -> Path:
    """Add results to those of a step; results of the same name are replaced.

    Returns:
        The file.

    Raises:
        UserError: The file cannot be written, or holds something else.
    """
    path = results_path(workdir, step)
    try:
        path.parent.mkdir(exist_ok=True)
        stored = json.loads(path.read_text()) if path.exists() else {}
        write_text(path, json.dumps(stored | results, indent=2) + "\n")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: results cannot be written: {error}") from error
    return path


def table(columns: dict[str, Results]) -> str:
    """Format results as text: a row per name, a column per title, blank where one is missing."""
    names = list(dict.fromkeys(name for results in columns.values() for name in results))
    width = max(map(len, names), default=0)
    lines = [" " * width + "".join(f"{title:>12}" for title in columns)]
    for name in names:
        values = (
            f"{results[name]:>12.3f}" if name in results else " " * 12
            for results in columns.values()
        )
        lines.append(f"{name:<{width}}{''.join(values)}".rstrip())
    return "\n".join(lines)
