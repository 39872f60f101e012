"""Import weights of the PyTorch original and of other published programs, and export to them.

`python -m cyclegan_jax.torch_weights import --workdir W --gen_ab latest_net_G_A.pth` creates a work
directory from which `main.py` resumes training; `... export --workdir W --output FOLDER` writes the
files back. Import does not need PyTorch, export does.
"""

import argparse
import contextlib
import functools
import importlib.util
import os
import shlex
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cyclegan_jax import config as config_lib
from cyclegan_jax import data
from cyclegan_jax.build import build_networks, build_state, check_image_size
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.default_config import get_config
from cyclegan_jax.state import TrainState
from cyclegan_jax.torch_weights.files import read_tensors
from cyclegan_jax.torch_weights.formats import check_choices, exporting, find_format, trainable
from cyclegan_jax.torch_weights.systems.base import System
from cyclegan_jax.utils import command
from cyclegan_jax.utils.atomic import atomic_path, write_text
from cyclegan_jax.utils.errors import UserError

NETWORKS = ("gen_ab", "gen_ba", "disc_a", "disc_b")

# The fields of the configuration that hold the channels of each network.
_CHANNELS = {
    "gen_ab": {"channels_in": "data.channels_a", "channels_out": "data.channels_b"},
    "gen_ba": {"channels_in": "data.channels_b", "channels_out": "data.channels_a"},
    "disc_a": {"channels_in": "data.channels_a"},
    "disc_b": {"channels_in": "data.channels_b"},
}
_HELP = {
    "gen_ab": "translates A to B: the original's latest_net_G_A.pth, or a file of PyTorch-GAN, "
    "DGAI, CycleGAN-Keras or the Paddle tutorial (see docs/export.md)",
    "gen_ba": "translates B to A: the original's latest_net_G_B.pth, or another",
    "disc_a": "judges images of A: the original's latest_net_D_B.pth, or another",
    "disc_b": "judges images of B: the original's latest_net_D_A.pth, or another",
}
# A small file can claim any number; more channels need --config.
_MAX_DETECTED_CHANNELS = 64


def import_networks(
    workdir: Path, files: dict[str, Path], config: ConfigDict | None = None
) -> ConfigDict:
    """Create a work directory whose checkpoint, at step 0, holds the networks of these files.

    Networks without a file have the architecture of those with one, and start from `config.seed`.

    Args:
        workdir: A new or empty folder.
        files: State dicts by our names (gen_ab, gen_ba, disc_a, disc_b).
        config: The configuration that the files must fit. Without it, it is detected.

    Returns:
        The configuration.

    Raises:
        UserError: A file cannot be read or does not fit, or the folder is in use.
    """
    _check_new(workdir)
    if config is not None:
        config_lib.check(config)
    tensors, formats, detected = {}, {}, {}
    for name, path in files.items():
        tensors[name] = trainable(read_tensors(path))
        with _naming(path):
            entry = formats[name] = find_format(_kind(name), tensors[name])
            if config is None:
                detected[name] = entry.detect(tensors[name])
            elif (variant := config[_kind(name)].variant) not in entry.variants:
                choices = " or ".join(entry.variants)
                raise UserError(f"expected {_kind(name)}.variant {variant}, got {choices}")
    if config is None:
        config = _merge(formats["gen_ab"].system, detected, files)
    fields = config_lib.flatten(config)
    for name, path in files.items():
        with _naming(path):
            check_choices(fields, formats[name].choices, formats[name].system)
    image_size = _image_size(config)
    check_image_size(build_networks(config), *image_size)
    jax.config.update("jax_enable_x64", config.precision == "float64")
    shapes = jax.eval_shape(functools.partial(build_state, config, image_size)).params
    imported = {}
    for name, path in files.items():
        with _naming(path):
            imported[name] = formats[name].to_params(tensors[name], shapes[name])

    def create() -> TrainState:
        state = build_state(config, image_size)
        # XLA removes the initialisation of what is not returned.
        return state.replace(params={n: p for n, p in state.params.items() if n not in imported})

    # Runs once: optimisation would take longer than it saves, and gives the same numbers.
    state = jax.jit(create, compiler_options={"xla_backend_optimization_level": 1})()
    _save(workdir, state.with_params(state.params | imported), config)
    return config


def export_networks(workdir: Path, output: Path, checkpoint: str | int = "latest") -> list[Path]:
    """Write the four networks of a checkpoint as files of the published program that has them.

    The program is the original or another one, whose classes load the files strictly.

    Args:
        workdir: The work directory of a run.
        output: Folder for the files, named as by the program; created if missing.
        checkpoint: latest (that can be read), best, or a step.

    Returns:
        The files.

    Raises:
        UserError: There is no such checkpoint, no program has such networks, a file exists, or
            PyTorch is missing.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError("export needs PyTorch: pip install torch") from error
    config, params = _restore(workdir, checkpoint)
    system, formats = exporting(config_lib.flatten(config))
    paths = {name: output / file for name, file in system.exported.items()}
    dropout = config.generator.dropout > 0
    tensors = {
        name: formats[_kind(name)].from_params(params[name], dropout=dropout) for name in NETWORKS
    }
    try:
        output.mkdir(parents=True, exist_ok=True)
        for path in paths.values():
            if path.exists():
                raise UserError(f"{path}: exists already; choose another --output")
        for name, path in paths.items():
            state = OrderedDict((key, torch.from_numpy(x)) for key, x in tensors[name].items())
            # From a path PyTorch would store the temporary file's name in the file.
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                torch.save(state, file)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--output {output}: cannot be written: {reason}") from error
    return list(paths.values())


def _merge(
    system: System, detected: dict[str, dict[str, Any]], files: dict[str, Path]
) -> ConfigDict:
    """Return the default configuration with the networks that were detected.

    Without a file of a discriminator they are those of the generators' system.
    """
    merged: dict[str, Any] = {}
    origin: dict[str, Path] = {}
    for name, fields in detected.items():
        for field, value in fields.items():
            field = _CHANNELS[name].get(field, field)
            if merged.setdefault(field, value) != value:
                raise UserError(
                    f"{files[name]}: expected {field} {merged[field]!r} as in {origin[field]}, "
                    f"got {value!r}"
                )
            origin.setdefault(field, files[name])
            if field.startswith("data.channels") and value > _MAX_DETECTED_CHANNELS:
                raise UserError(
                    f"{files[name]}: expected at most {_MAX_DETECTED_CHANNELS} channels, got "
                    f"{value}; set {field} in a file for --config"
                )
    config = get_config()
    if not any(name.startswith("disc") for name in files):
        config.update_from_flattened_dict(system.discriminators)
    config.update_from_flattened_dict(merged)
    if config.data.channels_a != config.data.channels_b:
        config.loss.identity = 0.0  # it compares images of both domains
    return config


def _kind(name: str) -> str:
    return "generator" if name.startswith("gen") else "discriminator"


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Prefix the messages of errors with the file."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _check_new(workdir: Path) -> None:
    """Raise UserError if the folder contains anything."""
    try:
        in_use = workdir.exists() and any(workdir.iterdir())
    except OSError as error:
        raise UserError(f"--workdir {workdir}: cannot be read: {error.strerror}") from error
    if in_use:
        raise UserError(f"--workdir {workdir}: expected a new or empty folder")


def _image_size(config: ConfigDict) -> tuple[int, int]:
    """Return the height and width of training images; images decide if the transform does not."""
    size = data.build_transform(config.data, "a").output_size
    if size is not None:
        return size
    sources = data.Sources(*data.open_split(config.data, "train"), None, None)
    return data.build_train_dataset(config.data, config.seed, config.batch_size, sources).image_size


def _save(workdir: Path, state: TrainState, config: ConfigDict) -> None:
    """Create a work directory with one checkpoint."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        checkpoints = Checkpoints(workdir, config.to_dict())
        checkpoints.save(state)
        checkpoints.wait()
        checkpoints.close()
        write_text(workdir / "config.json", config_lib.to_json(config) + "\n")
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--workdir {workdir}: cannot be written: {reason}") from error


def _restore(workdir: Path, checkpoint: str | int) -> tuple[ConfigDict, dict[str, Any]]:
    """Return the configuration and the parameters of a checkpoint."""
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"--workdir {workdir}: expected a run, got no checkpoints in it")
    config = config_lib.read_json(workdir / "config.json")
    jax.config.update("jax_enable_x64", config.precision == "float64")
    checkpoints = Checkpoints(workdir, config.to_dict(), read_only=True)
    return config, checkpoints.restore_params(checkpoint, averaged=True)[1]


def _load_config(place: str) -> ConfigDict:
    """Load the configuration of FILE.py or FILE.py:ARGUMENT, as `main.py` does."""
    path, _, argument = os.path.expanduser(place).partition(":")  # noqa: PTH111 - not only a path
    spec = importlib.util.spec_from_file_location("import_config", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise UserError(f"--config {path}: no such file; see those in configs/")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config: ConfigDict = module.get_config(*([argument] if argument else []))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--config {place}: get_config failed: {reason}") from error
    return config


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command.Parser(prog="python -m cyclegan_jax.torch_weights", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    importer = commands.add_parser("import", help="create a work directory from files of weights")
    importer.add_argument(
        "--workdir", type=command.path, required=True, help="a new or empty folder"
    )
    for name in NETWORKS:
        importer.add_argument(
            f"--{name}",
            type=command.path,
            metavar="FILE",
            required=name == "gen_ab",
            help=_HELP[name],
        )
    importer.add_argument(
        "--config", help="file of configs/ that the files must fit (default: detect)"
    )
    exporter = commands.add_parser("export", help="write a work directory as PyTorch files")
    exporter.add_argument("--workdir", type=command.path, required=True, help="a run")
    exporter.add_argument("--output", type=command.path, required=True, help="folder for the files")
    exporter.add_argument("--checkpoint", default="latest", help="latest (default), best or a step")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; without arguments, that of the process."""
    args = _parse(arguments)
    if args.command == "export":
        for path in export_networks(args.workdir, args.output, args.checkpoint):
            print(f"wrote {path}")
        return
    files = {name: path for name in NETWORKS if (path := getattr(args, name)) is not None}
    base = None if args.config is None else _load_config(args.config)
    config = import_networks(args.workdir, files, base)
    for name in NETWORKS:
        print(f"{name}: {files.get(name, f'initialised from seed {config.seed}')}")
    if "batch" in (config.generator.norm, config.discriminator.norm):
        print(
            "warning: batch norms use the statistics of each batch here, also in inference; the "
            "running statistics of the files are ignored",
            file=sys.stderr,
        )
    defaults = config_lib.flatten(get_config() if base is None else base)
    fields = config_lib.flatten(config)
    flags = "".join(f" --config.{n}={v}" for n, v in fields.items() if v != defaults[n])
    workdir = shlex.quote(str(args.workdir))
    images = (
        config.data.name if config.data.source == "tfds" else f"data.source={config.data.source}"
    )
    resume = f"--config {args.config or 'configs/default.py'} --workdir {workdir}"
    print(f"to continue on {images}: python main.py {resume}{flags}")
    own = f"--config {args.config or 'configs/folder.py'} --workdir NEW"
    if args.config:
        own += " --config.data.source=folder"
    own += f" --config.data.dir=IMAGES --config.init_from={workdir}"
    print(f"to train on your own images: python main.py {own}{flags}")
