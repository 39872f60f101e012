"""Metrics and losses of a run as curves: {step: value} in the order of the steps."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

Curve = dict[int, float]

_SERIES = {
    "ab": "A to B",
    "ba": "B to A",
    "a_to_b": "A to B",
    "b_to_a": "B to A",
    "a": "A",
    "b": "B",
}


class Name(NamedTuple):
    """The parts of a metric's name.

    Attributes:
        title: The quantity.
        series: The direction or domain; "" for neither.
    """

    title: str
    series: str


def split_name(name: str) -> Name:
    """Split the name of a metric.

    `a_to_b/mean_iou` is ("mean iou", "A to B"), `generators/cycle_a` is ("generators: cycle", "A").
    """
    titles, series = [], ""
    for part in name.split("/"):
        if part in _SERIES:
            series = _SERIES[part]
        elif match := re.fullmatch(r"(.+)_(ab|ba|a|b)", part):
            titles.append(match[1])
            series = _SERIES[match[2]]
        else:
            titles.append(part)
    return Name(": ".join(titles).replace("_", " "), series)


def by_name(metrics: Mapping[int, Mapping[str, float]]) -> dict[str, Curve]:
    """Turn metrics by step and name into curves by name."""
    curves: dict[str, Curve] = {}
    for step, values in metrics.items():
        for name, value in values.items():
            curves.setdefault(name, {})[step] = value
    return curves


def read_events(workdir: Path, prefixes: Sequence[str]) -> dict[str, Curve]:
    """Read the scalars with these name prefixes from a run's TensorBoard event files.

    A resumed run has several files. Where a later file repeats steps of an earlier one, the
    earlier file counts only up to the first of them.
    """
    files = [
        list(_scalars(path, tuple(prefixes))) for path in workdir.glob("events.out.tfevents.*")
    ]
    curves: dict[str, Curve] = {}
    for scalars in sorted(filter(None, files)):  # by the time of their first scalar
        resumed: dict[str, Curve] = {}
        for _, step, name, value in scalars:
            resumed.setdefault(name, {})[step] = value
        for name, curve in resumed.items():
            first = next(iter(curve))
            earlier = {s: v for s, v in curves.get(name, {}).items() if s < first}
            curves[name] = earlier | curve
    return curves


def _scalars(path: Path, prefixes: tuple[str, ...]) -> Iterator[tuple[float, int, str, float]]:
    """Yield (time, step, name, value) of an event file up to its end or first damaged record.

    TensorBoard's own reader loads TensorFlow (5 s, 0.7 GB) or, without it, computes checksums in
    Python (50 s for 300 MB). The format is a sequence of records: length (8 bytes), checksum (4),
    `Event` protocol buffer, checksum (4).
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.util.tensor_util import make_ndarray

    size = path.stat().st_size
    with path.open("rb") as stream:
        while len(header := stream.read(12)) == 12:
            length = int.from_bytes(header[:8], "little")
            if stream.tell() + length + 4 > size:
                return
            try:
                event = Event.FromString(stream.read(length + 4)[:length])
                for value in event.summary.value:
                    if value.tag.startswith(prefixes) and not value.tensor.tensor_shape.dim:
                        scalar = float(make_ndarray(value.tensor))
                        yield event.wall_time, event.step, value.tag, scalar
            except (DecodeError, TypeError, ValueError):
                return
