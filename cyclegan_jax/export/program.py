"""Export a trained generator to one file: ONNX, StableHLO or safetensors.

`python -m cyclegan_jax.export --workdir W --output model.onnx` exports the generator from A to B of
the latest checkpoint. ONNX and StableHLO hold the whole network in float32, for any batch size,
height and width that it takes; safetensors holds parameters and configuration. A file is loaded
and compared with the network before it replaces another.
"""

import argparse
import os
from pathlib import Path
from typing import NamedTuple

from cyclegan_jax import config as config_lib
from cyclegan_jax.export.exporters import EXPORTERS
from cyclegan_jax.export.trained import Trained, check_installed
from cyclegan_jax.inference.translator import DIRECTIONS, Translator
from cyclegan_jax.utils import command
from cyclegan_jax.utils.atomic import atomic_path
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.registry import lookup

TOLERANCE = 1e-3  # of results in [-1, 1], where a level of 8 bits is 8e-3


class Exported(NamedTuple):
    """The result of an export.

    Attributes:
        path: The file.
        step: The step of the checkpoint.
        difference: The largest difference to the network's results, in [-1, 1].
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
    """Export one generator of a run to a file, which appears only once it has been verified.

    Args:
        workdir: Work directory of the run.
        output: The file.
        format: A name of `EXPORTERS`, or `package.module:attribute` for another `Exporter`; by
            default the file's suffix.
        direction: One of `translator.DIRECTIONS`.
        checkpoint: "latest", "best", or a step.
        overwrite: Whether an existing file may be replaced.

    Raises:
        UserError: There is no such run or checkpoint, the file cannot be written, a library is
            missing, the format does not support the generator, or the file's results differ from
            the network's by more than `TOLERANCE`.
    """
    path = Path(output).expanduser()
    name = _format_name(path, format)
    exporter = lookup("--format", name, EXPORTERS)
    _check_output(path, overwrite=overwrite)
    for library in getattr(exporter, "requires", ()):
        check_installed(library, f"export to {name}")
    translator = Translator.load(workdir, direction, checkpoint)
    config = config_lib.read_json(Path(workdir).expanduser() / "config.json")
    trained = Trained(translator.network, config, direction, translator.step)
    try:
        with atomic_path(path) as temporary:
            difference = exporter(trained, temporary)
            if not difference <= TOLERANCE:
                raise UserError(
                    f"{path}: not written: expected results within {TOLERANCE} of the network's, "
                    f"got a difference of {difference:.1e}"
                )
    except OSError as error:
        raise UserError(f"--output {path}: cannot be written: {error.strerror or error}") from error
    return Exported(path, trained.step, difference)


def _format_name(path: Path, format: str | None) -> str:
    """Return the format that `--format` or else the suffix names."""
    suffix = path.suffix[1:].lower()
    if format is None:
        if suffix not in EXPORTERS:
            suffixes = ", ".join(f".{name}" for name in EXPORTERS)
            raise UserError(f"--output {path}: expected a suffix of {suffixes}, or a --format")
        return suffix
    if suffix != format and suffix in EXPORTERS and format in EXPORTERS:
        raise UserError(f"--output {path}: expected the suffix .{format} of --format {format}")
    return format


def _check_output(path: Path, *, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UserError(f"--output {path}: expected a file, got a folder")
    if path.exists() and not overwrite:
        raise UserError(f"{path}: exists; --overwrite replaces it")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command.Parser(prog="python -m cyclegan_jax.export", description=__doc__)
    add = parser.add_argument
    add("--workdir", type=command.path, required=True, help="work directory of a run")
    add("--output", type=command.path, required=True, help="the file to write")
    add(
        "--format",
        help=f"{', '.join(EXPORTERS)}, or package.module:attribute; default: the file's suffix",
    )
    add("--direction", choices=DIRECTIONS, default="a_to_b", help="default: a_to_b")
    add("--checkpoint", default="latest", help="latest (default), best, or a step")
    add("--overwrite", action="store_true", help="replace an existing file")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; `arguments` defaults to those of the process.

    Raises:
        UserError: A user's mistake; nothing was written.
    """
    exported = export_generator(**vars(_parse(arguments)))
    print(
        f"{exported.path}: {exported.path.stat().st_size / 1e6:.1f} MB, from checkpoint "
        f"{exported.step}; differs from the network by at most {exported.difference:.1e}"
    )
