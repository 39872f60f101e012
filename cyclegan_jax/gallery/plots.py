"""Plots of curves as SVG elements that follow the page's light or dark colours."""

import io
import re
from collections.abc import Mapping
from html import escape
from typing import Any

from cyclegan_jax.gallery.curves import Curve, split_name
from cyclegan_jax.utils.errors import UserError

# Matplotlib takes no CSS variables: these colours are replaced after drawing.
_TEXT, _GRID = "#010101", "#020202"
_LINES = ("#030303", "#040404")
_CSS = {
    _TEXT: "currentColor",
    _GRID: "var(--line)",
    _LINES[0]: "var(--first)",
    _LINES[1]: "var(--second)",
}


def plots(curves: Mapping[str, Curve]) -> dict[str, str]:
    """Plot curves by name, those of both directions or domains together, as {title: SVG}.

    Raises:
        UserError: Matplotlib is not installed.
    """
    groups: dict[str, dict[str, Curve]] = {}
    for name, curve in curves.items():
        title, series = split_name(name)
        groups.setdefault(title, {})[series] = curve
    return {title: plot(title, series) for title, series in groups.items()}


def plot(title: str, series: Mapping[str, Curve]) -> str:
    """Plot one or two curves as an SVG element for the gallery's page.

    Args:
        title: The quantity, for the accessible description; not drawn.
        series: {label: curve}.

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
        "svg.hashsalt": title,  # reproducible ids that differ between the plots of a page
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
        # Unlike pyplot, Figure needs no display.
        figure = Figure(figsize=(4, 2.5), layout="constrained")
        axes = figure.add_subplot()
        for label, curve in series.items():
            axes.plot(
                list(curve),
                list(curve.values()),
                color=_LINES[label.startswith("B")],
                label=label,
                linewidth=1.6,
                marker="o" if len(curve) < 3 else None,
                markersize=4,
            )
        axes.set_xlabel("step")
        axes.locator_params(axis="x", nbins=5, integer=True)
        if any(series):
            axes.legend(frameon=False, fontsize=9)
        stream = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=no_metadata)
    return _inline(stream.getvalue(), f"{title} over steps: {_describe(series)}")


def _describe(series: Mapping[str, Curve]) -> str:
    """Describe the last point of each curve."""
    ends = []
    for label, curve in series.items():
        step, value = list(curve.items())[-1]
        ends.append(f"{label} {value:.4g} at step {step}".lstrip())
    return ", ".join(ends)


def _inline(svg: str, description: str) -> str:
    """Turn an SVG document into an element without URLs, with CSS colours and a fluid width."""
    svg = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="[^"]+"', svg)
    assert view is not None
    body = svg[svg.index(">") + 1 :]
    # Matplotlib numbers these ids from 1 in each plot; in one page they would clash.
    body = re.sub(r' id="[\w.]+_\d+"', "", body)
    for placeholder, colour in _CSS.items():
        body = body.replace(placeholder, colour)
    return f'<svg {view[0]} role="img" aria-label="{escape(description)}">{body}'
