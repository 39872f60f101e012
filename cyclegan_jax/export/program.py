"""Writes a trained generator to one file that runs elsewhere: ONNX, StableHLO or safetensors.

`python -m cyclegan_jax.export --workdir W --output model.onnx` takes the generator from A to B of
the newest checkpoint. ONNX and StableHLO hold the whole network in float32, for any number of
images of any size the network takes; safetensors holds its parameters and the configuration. A
file is loaded and compared with the network it was made of before it gets its name.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cyclegan_jax import config as config_lib
from cyclegan_jax.export.portable import (
    Trained,
    check_installed,
    load_safetensors,
    load_stablehlo,
    to_float32,
    to_safetensors,
    to_stablehlo,
)
from cyclegan_jax.inference.translator import DIRECTIONS, Network, Translator, translate
from cyclegan_jax.utils import command
from cyclegan_jax.utils.errors import UserError

TOLERANCE = 1e-3  # between results in [-1, 1]; a step of 8 bits is 8e-3
_NEEDED = {
    "onnx": ("onnx", "onnxruntime"),
    "stablehlo": ("flatbuffers",),
    "safetensors": ("safetensors",),
}
FORMATS = tuple(_NEEDED)
_ONNX_BYTES = 2**31 - 2**20  # what a file holds, less some for the graph


class Exported(NamedTuple):
    """What came of an export.

    Attributes:
        path: the file.
        step: of the checkpoint.
        difference: the largest between its results and the network's, in [-1, 1].
    """

    path: Path
    step: int
    difference: float


def export_generator(
    workdir: str | os.PathLike,
    output: str | os.PathLike,
    *,
    format: str | None = None,
    direction: str = "a_to_b",
    checkpoint: str | int = "latest",
    overwrite: bool = False,
) -> Exported:
    """Writes one generator of a run to a file, which is there only once it is found right.

    Args:
        workdir: of the run.
        output: the file.
        format: one of `FORMATS`; by default what the file's suffix says.
        direction: one of `inference.DIRECTIONS`.
        checkpoint: latest, best, or a step.
        overwrite: whether a file that is there may be replaced.

    Raises:
        UserError: there is no such run or checkpoint, the file cannot be made, a library is
            missing, or the file's results differ from the network's by more than `TOLERANCE`.
    """
    path = Path(output).expanduser()
    kind = _format(path, format)
    _check_place(path, overwrite=overwrite)
    for name in _NEEDED[kind]:
        check_installed(name, f"export to {kind}")
    translator = Translator.load(workdir, direction, checkpoint)
    config = config_lib.read_json(Path(workdir).expanduser() / "config.json")
    trained = Trained(translator.network, config, direction, translator.step)
    write = {"onnx": _write_onnx, "stablehlo": _write_stablehlo, "safetensors": _write_safetensors}
    try:
        # Beside its place: files are renamed at once only within a file system.
        with tempfile.TemporaryDirectory(prefix=".export_", dir=path.parent) as folder:
            unnamed = Path(folder) / path.name
            difference = write[kind](trained, unnamed)
            if not difference <= TOLERANCE:
                raise UserError(
                    f"{path} was not written: its results differ from the network's by "
                    f"{difference:.1e}; at most {TOLERANCE} was expected"
                )
            unnamed.replace(path)
    except OSError as error:
        raise UserError(f"--output {path}: cannot be written: {error.strerror or error}") from error
    return Exported(path, trained.step, difference)


def _write_onnx(trained: Trained, path: Path) -> float:
    """Returns the largest difference to the network's results."""
    import onnx
    import onnxruntime

    from cyclegan_jax.export import onnx_graph

    network = to_float32(trained.network)
    if sum(leaf.nbytes for leaf in jax.tree.leaves(network.params)) > _ONNX_BYTES:
        raise UserError("export to onnx: the parameters exceed the 2 GiB that such a file holds")
    onnx.save(onnx_graph.build_model(network, trained.about()), path)
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> np.ndarray:
        inputs = {onnx_graph.INPUT: np.ascontiguousarray(images.transpose(0, 3, 1, 2))}
        return session.run(None, inputs)[0].transpose(0, 2, 3, 1)

    return _difference(network, run)


def _write_stablehlo(trained: Trained, path: Path) -> float:
    """Returns the largest difference to the network's results."""
    path.write_bytes(to_stablehlo(trained.network))
    return _difference(to_float32(trained.network), load_stablehlo(path))


def _write_safetensors(trained: Trained, path: Path) -> float:
    """Returns the largest difference between parameters, infinity for another network."""
    path.write_bytes(to_safetensors(trained))
    config, loaded = load_safetensors(path)
    if (config, loaded.generator) != (trained.config, trained.network.generator):
        return np.inf
    differences = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), loaded.params, trained.network.params
    )
    return float(max(jax.tree.leaves(differences)))


def _difference(network: Network, run: Callable[[Any], Any]) -> float:
    """The largest between what `run` and the network make of random images of two sizes."""
    largest = 0.0
    for images in _examples(network):
        # GPUs would round what they multiply.
        with jax.default_matmul_precision("highest"):
            expected = translate(network.generator, network.params, images)
            largest = max(largest, float(np.abs(np.asarray(run(images)) - expected).max()))
    return largest


def _examples(network: Network) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    unit = network.generator.granularity
    side = -(-64 // unit) * unit
    for batch, height, width in ((2, side, side + unit), (1, side + unit, side)):
        shape = (batch, height, width, network.channels)
        yield rng.uniform(-1, 1, shape).astype(np.float32)


def _format(path: Path, format: str | None) -> str:
    """The format that is meant."""
    suffix = path.suffix[1:].lower()
    if format is None:
        if suffix not in FORMATS:
            endings = ", ".join(f".{name}" for name in FORMATS)
            raise UserError(f"--output {path}: end it with one of {endings}, or choose a --format")
        return suffix
    if format not in FORMATS:
        raise UserError(f"format {format!r}; choose from {', '.join(FORMATS)}")
    if suffix in FORMATS and suffix != format:
        raise UserError(f"--output {path}: its name says {suffix}, --format says {format}")
    return format


def _check_place(path: Path, *, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UserError(f"--output {path}: a folder; the name of a file was expected")
    if path.exists() and not overwrite:
        raise UserError(f"{path} there already; --overwrite replaces it")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command.Parser(prog="python -m cyclegan_jax.export", description=__doc__)
    add = parser.add_argument
    add("--workdir", type=command.path, required=True, help="of a run")
    add(
        "--output",
        type=command.path,
        required=True,
        help="the file: .onnx, .stablehlo or .safetensors",
    )
    add("--format", choices=FORMATS, help="by default what the file's suffix says")
    add("--direction", choices=DIRECTIONS, default="a_to_b")
    add("--checkpoint", default="latest", help="latest (default), best or a step")
    add("--overwrite", action="store_true", help="replace a file that is there")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """The command line; without arguments, that of the process.

    Raises:
        UserError: a mistake of the user's; nothing was made.
    """
    exported = export_generator(**vars(_parse(arguments)))
    print(
        f"{exported.path}: {exported.path.stat().st_size / 1e6:.1f} MB, from checkpoint "
        f"{exported.step}; loaded again, it differs by {exported.difference:.1e} at most"
    )
