"""Figures by name, as they are kept in a work directory and shown."""

import json
import os
from pathlib import Path

from cyclegan_jax.utils.errors import UserError

Figures = dict[str, float]


def figures_path(workdir: Path, step: int) -> Path:
    """Where the figures of a step are kept."""
    return workdir / "evaluation" / f"{step}.json"


def read_figures(workdir: Path) -> dict[int, Figures]:
    """All figures of a run by step, in order; empty where there are none.

    Raises:
        UserError: a file of figures is none.
    """
    kept = {}
    for path in (workdir / "evaluation").glob("*.json"):
        try:
            kept[int(path.stem)] = {
                str(k): float(v) for k, v in json.loads(path.read_text()).items()
            }
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: no figures of a step; delete it or move it away") from error
    return dict(sorted(kept.items()))


def write_figures(workdir: Path, step: int, figures: Figures) -> Path:
    """Adds figures to those of a step, in place of older ones of the same names.

    Raises:
        UserError: they cannot be written.
    """
    path = figures_path(workdir, step)
    try:
        path.parent.mkdir(exist_ok=True)
        before = json.loads(path.read_text()) if path.exists() else {}
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(before | figures, indent=2) + "\n")
        temporary.replace(path)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: figures cannot be written: {error}") from error
    return path


def table(columns: dict[str, Figures]) -> str:
    """Lines of text: a row per figure, a column per set of figures; blank where a set lacks one."""
    names = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    width = max(map(len, names), default=0)
    lines = [" " * width + "".join(f"{title:>12}" for title in columns)]
    for name in names:
        values = (
            f"{figures[name]:>12.3f}" if name in figures else " " * 12
            for figures in columns.values()
        )
        lines.append(f"{name:<{width}}{''.join(values)}".rstrip())
    return "\n".join(lines)
