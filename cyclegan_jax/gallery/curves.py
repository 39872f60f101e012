"""What a run has logged, step by step, and plots of it as SVG."""

import io
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from cyclegan_jax.evaluation.results import Figures
from cyclegan_jax.utils.errors import UserError

_SERIES = {
    "ab": "A to B",
    "ba": "B to A",
    "a_to_b": "A to B",
    "b_to_a": "B to A",
    "a": "A",
    "b": "B",
}
# Colours that stand for those of the page, which follow its light or dark.
_TEXT, _GRID = "#010101", "#020202"
_LINES = ("#030303", "#040404")
_PAGE_COLOURS = {
    _TEXT: "currentColor",
    _GRID: "var(--line)",
    _LINES[0]: "var(--first)",
    _LINES[1]: "var(--second)",
}


class Curve(NamedTuple):
    """Values at steps, in the order of the steps."""

    steps: list[int]
    values: list[float]


class Name(NamedTuple):
    """What is measured, and for which domain or direction ("" for neither)."""

    title: str
    series: str


def split_name(name: str) -> Name:
    """The parts of a name as runs log them.

    `a_to_b/mean_iou` is (mean iou, A to B), `generators/cycle_a` is (generators: cycle, A).
    """
    title, series = [], ""
    for part in name.split("/"):
        if part in _SERIES:
            series = _SERIES[part]
        elif found := re.fullmatch(r"(.+)_(ab|ba|a|b)", part):
            title.append(found[1])
            series = _SERIES[found[2]]
        else:
            title.append(part)
    return Name(": ".join(title).replace("_", " "), series)


def by_name(figures: dict[int, Figures]) -> dict[str, Curve]:
    """{name: its values over the steps}, of figures by step."""
    curves: dict[str, Curve] = {}
    for step, found in figures.items():
        for name, value in found.items():
            curve = curves.setdefault(name, Curve([], []))
            curve.steps.append(step)
            curve.values.append(value)
    return curves


def read_events(workdir: Path, prefixes: Sequence[str]) -> dict[str, Curve]:
    """What TensorBoard's files of a run hold, of names that begin so.

    A run that was stopped and went on has several files. Where a later one begins before an
    earlier one ends, what the earlier one has from there on was undone, and is left out.
    """
    parts: list[tuple[float, dict[str, Curve]]] = []
    for path in workdir.glob("events.out.tfevents.*"):
        began = float("inf")
        curves: dict[str, Curve] = {}
        for time, step, name, value in _scalars(path, tuple(prefixes)):
            began = min(began, time)
            curve = curves.setdefault(name, Curve([], []))
            curve.steps.append(step)
            curve.values.append(value)
        parts.append((began, curves))
    joined: dict[str, Curve] = {}
    for _, curves in sorted(parts, key=lambda part: part[0]):
        for name, curve in curves.items():
            before = joined.get(name, Curve([], []))
            kept = [p for p in zip(*before, strict=True) if p[0] < curve.steps[0]]
            points = dict(kept) | dict(zip(*curve, strict=True))
            joined[name] = Curve(list(points), list(points.values()))
    return joined


def _scalars(path: Path, prefixes: tuple[str, ...]) -> Iterator[tuple[float, int, str, float]]:
    """Time, step, name and value of what a file of TensorBoard's holds, until it breaks off.

    TensorBoard's own reader loads TensorFlow for it, or checks the sums of large images byte by
    byte; these files are the run's own. A file is a row of records: length (8 bytes), its check
    (4), an `Event`, its check (4).
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.util.tensor_util import make_ndarray

    whole = path.stat().st_size
    with path.open("rb") as stream:
        while len(head := stream.read(12)) == 12:
            length = int.from_bytes(head[:8], "little")
            if stream.tell() + length + 4 > whole:
                return
            try:
                event = Event.FromString(stream.read(length + 4)[:length])
            except DecodeError:
                return
            for value in event.summary.value:
                if value.tag.startswith(prefixes) and not value.tensor.tensor_shape.dim:
                    yield event.wall_time, event.step, value.tag, float(make_ndarray(value.tensor))


def plots(curves: dict[str, Curve]) -> dict[str, str]:
    """{title: SVG}, the curves of what has the same title in one plot.

    Raises:
        UserError: Matplotlib is not installed.
    """
    together: dict[str, dict[str, Curve]] = {}
    for name, curve in curves.items():
        title, series = split_name(name)
        together.setdefault(title, {})[series] = curve
    return {title: plot(title, series) for title, series in together.items()}


def plot(title: str, series: dict[str, Curve]) -> str:
    """SVG, to stand in a page of `gallery_page`, of one or two curves.

    Args:
        title: what is plotted; said to those who do not see it.
        series: {what to call it: curve}.

    Raises:
        UserError: Matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("plots need Matplotlib: pip install 'matplotlib>=3.10,<4'") from error
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,  # makes the ids of a page's plots differ, and the same every time
        "font.size": 9,
        "text.color": _TEXT,
        "axes.edgecolor": _GRID,
        "axes.labelcolor": _TEXT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": _GRID,
        "xtick.color": _GRID,
        "ytick.color": _GRID,
        "xtick.labelcolor": _TEXT,
        "ytick.labelcolor": _TEXT,
    }
    with matplotlib.rc_context(style):
        # Not pyplot, which would look for a screen.
        drawing = Figure(figsize=(4, 2.5), layout="constrained")
        axes = drawing.add_subplot()
        for label, curve in series.items():
            colour = _LINES[label.startswith("B")]
            marker = "o" if len(curve.steps) < 3 else None
            axes.plot(*curve, color=colour, label=label, linewidth=1.6, marker=marker, markersize=4)
        axes.set_xlabel("step")
        axes.locator_params(axis="x", nbins=5, integer=True)
        if any(series):
            axes.legend(frameon=False, fontsize=9)
        stream = io.StringIO()
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawing.savefig(stream, format="svg", transparent=True, metadata=empty)
    return _inline(stream.getvalue(), f"{title} over steps: {_summary(series)}")


def _summary(series: dict[str, Curve]) -> str:
    """In words: how each curve ends."""
    ends = []
    for label, curve in series.items():
        name = f"{label} " if label else ""
        ends.append(f"{name}{curve.values[-1]:.4g} at step {curve.steps[-1]}")
    return ", ".join(ends)


def _inline(svg: str, description: str) -> str:
    """An SVG file as a part of a page: without addresses, in its colours, as wide as its place."""
    svg = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="[^"]+"', svg)
    assert view is not None
    body = svg[svg.index(">") + 1 :]
    # Names that each plot gives to its parts would occur several times in the page.
    body = re.sub(r' id="[\w.]+_\d+"', "", body)
    for placeholder, colour in _PAGE_COLOURS.items():
        body = body.replace(placeholder, colour)
    return f'<svg {view[0]} role="img" aria-label="{escape(description)}">{body}'
