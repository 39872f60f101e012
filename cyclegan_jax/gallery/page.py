"""HTML of a gallery: one page that holds all it shows, and asks no other address for anything.

What is given as text is escaped; what is called HTML is taken as it is, and comes from here.
"""

import base64
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
from PIL import Image

from cyclegan_jax.utils.image_io import to_8_bits

LONGEST_SIDE = 768  # pixels; larger images are shown reduced
_LARGEST_PNG = 128 * 1024  # bytes; beyond, images without alpha are JPEG

_STYLE = """
:root { color-scheme: light dark; --back: #f6f6f4; --card: #fff; --text: #1d1f21; --soft: #62666b;
  --line: #dcdcd8; --first: #1f6fb2; --second: #c8561a; --check: #e6e6e2; }
@media (prefers-color-scheme: dark) { :root { --back: #151719; --card: #1f2225; --text: #e8e8e4;
  --soft: #a0a5aa; --line: #383c40; --first: #62adeb; --second: #f29255; --check: #2c3034; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(.75rem, 3vw, 2.5rem) 3rem; max-width: 88rem;
  background: var(--back); color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 0 0 .6rem; font-size: 1.15rem; }
section { margin-top: 2rem; min-width: 0; }
.facts, .note, figcaption, th { color: var(--soft); }
.facts { margin: .25rem 0 0; }
.note { margin: -.4rem 0 .6rem; font-size: .9rem; }
.beside { display: grid; gap: 0 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
.rows { display: grid; gap: .9rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
.beside .rows { grid-template-columns: 100%; }
.row, .card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .7rem; min-width: 0; }
.row h2 { margin: 0 0 .4rem; font-size: .9rem; overflow-wrap: anywhere; }
small { font-size: .85em; font-weight: 400; color: var(--soft); }
.cells { display: grid; grid-auto-columns: minmax(0, 1fr); grid-auto-flow: column; gap: .6rem; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .8rem; line-height: 1.35; margin-top: .2rem; }
.image { display: block; width: 100%; padding: 0; border: 0; border-radius: .25rem;
  overflow: hidden; cursor: zoom-in; background: repeating-conic-gradient(var(--check) 0 25%,
  transparent 0 50%) 0 0 / 1rem 1rem; }
.image img { display: block; width: 100%; height: auto; }
.image:focus-visible, summary:focus-visible { outline: 3px solid var(--first);
  outline-offset: 2px; }
.small { image-rendering: pixelated; }
.missing { display: grid; place-items: center; min-height: 6rem; padding: .5rem; font-size: .85rem;
  text-align: center; color: var(--soft); border: 1px dashed var(--line); border-radius: .25rem;
  overflow-wrap: anywhere; }
.charts { display: grid; gap: .9rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
.chart figcaption { color: var(--text); font-size: .9rem; font-weight: 600; margin: 0 0 .3rem; }
.chart svg { display: block; width: 100%; height: auto; }
.chart text { font-family: inherit !important; }
.scroll { overflow-x: auto; width: fit-content; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; }
th, td { padding: .15rem 1.2rem .15rem 0; overflow-wrap: anywhere; vertical-align: top; }
tr + tr > * { border-top: 1px solid var(--line); }
.figures td, .figures thead th + th { text-align: right; }
.figures tr > :last-child { padding-right: 0; }
.groups { columns: 21rem; column-gap: 2rem; }
.groups table { width: 100%; margin-bottom: 1rem; break-inside: avoid; }
.groups td { text-align: right; padding-right: 0; }
.groups .changed td { font-weight: 700; }
caption { text-align: left; font-weight: 600; padding-bottom: .2rem; }
summary { cursor: pointer; font-size: 1.15rem; font-weight: 700; margin-bottom: .6rem; }
dialog { width: 100vw; height: 100dvh; max-width: none; max-height: none; margin: 0; padding: 1rem;
  border: 0; background: #000e; color: #fff; cursor: zoom-out; }
dialog img { display: block; width: 100%; height: calc(100% - 2.5rem); object-fit: contain; }
dialog p { margin: .7rem 0 0; text-align: center; font-size: .95rem; overflow-wrap: anywhere; }
"""

_SCRIPT = """
const images = [...document.querySelectorAll('.image')];
const dialog = document.querySelector('dialog');
let shown = 0;
function show(index) {
  shown = (index + images.length) % images.length;
  const from = images[shown].firstElementChild, to = dialog.querySelector('img');
  to.src = from.src;
  to.alt = from.alt;
  to.className = from.className;
  dialog.querySelector('p').textContent = from.alt;
  if (!dialog.open) dialog.showModal();
}
images.forEach((image, index) => image.addEventListener('click', () => show(index)));
dialog.addEventListener('click', () => dialog.close());
dialog.addEventListener('close', () => images[shown].focus());
dialog.addEventListener('keydown', event => {
  const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (by) { event.preventDefault(); show(shown + by); }
});
"""


def embed(image: np.ndarray) -> tuple[str, tuple[int, int]]:
    """An image as the address of itself.

    Args:
        image: [H, W, C] of 1 to 4 channels (see `images`), uint8 or uint16.

    Returns:
        The `data:` address of an 8-bit PNG or JPEG, and the height and width it has.
    """
    shallow = to_8_bits(image)
    pil = Image.fromarray(
        np.ascontiguousarray(shallow[..., 0] if shallow.shape[-1] == 1 else shallow)
    )
    # Alpha is weighed in, so that hidden colours do not show at edges.
    pil.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    kind, data = "png", _encode(pil, format="PNG")
    if len(data) > _LARGEST_PNG and pil.mode in ("L", "RGB"):
        kind, data = "jpeg", _encode(pil, format="JPEG", quality=90, subsampling=0)
    address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return address, (pil.height, pil.width)


def _encode(pil: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    pil.save(stream, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def about(image: np.ndarray) -> str:
    """Its size, and what the page leaves out of it."""
    height, width = image.shape[:2]
    parts = [f"{width} × {height}"]
    if max(height, width) > LONGEST_SIDE:
        parts.append("shown reduced")
    if image.dtype == np.uint16:
        parts.append("16 bits, shown with 8")
    return ", ".join(parts)


def figure(image: np.ndarray, label: str, alt: str) -> str:
    """HTML of an image that a click enlarges.

    Args:
        image: as `embed` takes it.
        label: stands below it.
        alt: says what it shows, to those who do not see it and where it is enlarged.
    """
    address, (height, width) = embed(image)
    small = ' class="small"' if max(height, width) <= 128 else ""
    return (
        f'<figure><button type="button" class="image"><img src="{address}" alt="{escape(alt)}"'
        f' width="{width}" height="{height}"{small}></button>'
        f"<figcaption>{escape(label)}</figcaption></figure>"
    )


def missing(label: str, message: str) -> str:
    """HTML that stands where an image would."""
    return (
        f'<figure><div class="missing">{escape(message)}</div>'
        f"<figcaption>{escape(label)}</figcaption></figure>"
    )


def row(cells: Iterable[str], heading: str = "", note: str = "") -> str:
    """HTML of images side by side, each given as HTML."""
    beside = f" <small>{escape(note)}</small>" if note else ""
    title = f"<h2>{escape(heading)}{beside}</h2>" if heading else ""
    return f'<div class="row">{title}<div class="cells">{"".join(cells)}</div></div>'


def rows(parts: Iterable[str]) -> str:
    """HTML of rows of images, each given as HTML."""
    return f'<div class="rows">{"".join(parts)}</div>'


def charts(plots: dict[str, str]) -> str:
    """HTML of plots: {title: SVG}."""
    return '<div class="charts">{}</div>'.format(
        "".join(
            f'<figure class="chart card"><figcaption>{escape(title)}</figcaption>{svg}</figure>'
            for title, svg in plots.items()
        )
    )


def figures_table(columns: Sequence[str], lines: Mapping[str, Sequence[float | None]]) -> str:
    """HTML of numbers, {name: a number for each column}; None leaves a place empty."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{'' if value is None else f'{value:.4g}'}</td>" for value in values)
        + "</tr>"
        for name, values in lines.items()
    )
    return (
        '<div class="card scroll"><table class="figures"><thead><tr><th></th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def settings(values: dict[str, object], usual: dict[str, object]) -> str:
    """HTML of a configuration, {dotted name: value}; what is not as usual is bold."""
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        group, _, field = name.rpartition(".")
        changed = "" if name in usual and usual[name] == value else ' class="changed"'
        groups.setdefault(group, []).append(
            f'<tr{changed}><th scope="row">{escape(field)}</th><td>{escape(str(value))}</td></tr>'
        )
    tables = "".join(
        f"<table><caption>{escape(group or 'run')}</caption><tbody>{''.join(lines)}</tbody></table>"
        for group, lines in groups.items()
    )
    return f'<div class="groups card">{tables}</div>'


def section(heading: str, body: str, note: str = "") -> str:
    """HTML of a part of the page; `body` is HTML."""
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(heading)}</h2>{below}{body}</section>"


def folded(heading: str, body: str, note: str = "") -> str:
    """`section` that shows its heading until it is opened."""
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    return (
        f"<section><details><summary>{escape(heading)}</summary>{below}{body}</details></section>"
    )


def beside(sections: Iterable[str]) -> str:
    """HTML of sections that stand side by side where there is room."""
    return f'<div class="beside">{"".join(sections)}</div>'


def document(title: str, facts: str, body: str) -> str:
    """The whole page.

    Its policy lets a browser load what it carries itself, and run the one script it came with.
    """
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p class="facts">{escape(facts)}</p></header>
<main>
{body}
</main>
<dialog aria-label="Enlarged image"><img src="data:," alt=""><p></p></dialog>
<script>{_SCRIPT}</script>
</body>
</html>
"""
