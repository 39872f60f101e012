"""Networks of the PyTorch original in and out of our work directories.

`python -m cyclegan_jax.torch_weights import --workdir W --gen_ab latest_net_G_A.pth` makes a work
directory that `main.py` goes on training from; `... export --workdir W --output FOLDER` writes the
files back. Reading needs no PyTorch, writing does.
"""

import argparse
import functools
import importlib.util
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from configs import default
from cyclegan_jax import config as config_lib
from cyclegan_jax import data
from cyclegan_jax.build import build_networks, build_state, check_image_size
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.state import TrainState
from cyclegan_jax.torch_weights.files import read_tensors
from cyclegan_jax.torch_weights.names import (
    Tensors,
    detect_discriminator,
    detect_generator,
    params_from_torch,
    torch_from_params,
)
from cyclegan_jax.utils import command
from cyclegan_jax.utils.errors import UserError

# The original's letters: its G_A makes B of A, and its D_A judges B.
FILES = {"gen_ab": "G_A", "gen_ba": "G_B", "disc_a": "D_B", "disc_b": "D_A"}

# What each network takes and gives, as fields of the configuration.
_CHANNELS = {
    "gen_ab": {"channels_in": "data.channels_a", "channels_out": "data.channels_b"},
    "gen_ba": {"channels_in": "data.channels_b", "channels_out": "data.channels_a"},
    "disc_a": {"channels_in": "data.channels_a"},
    "disc_b": {"channels_in": "data.channels_b"},
}

# What the original can express.
_EXPRESSIBLE: dict[str, tuple[Any, ...]] = {
    "generator.variant": ("resnet3", "resnet6", "resnet9", "unet128", "unet256"),
    "generator.norm": ("instance", "batch", "none"),
    "discriminator.variant": ("patch", "pixel"),
    "discriminator.norm": ("instance", "batch", "none"),
    "discriminator.sigmoid": (False,),
    "discriminator.scales": (1,),
}


def import_networks(
    workdir: Path, files: dict[str, Path], config: ConfigDict | None = None
) -> ConfigDict:
    """Makes a work directory with a checkpoint at step 0 that holds the networks of these files.

    What the file of one network says of another, as its architecture, holds for that too; networks
    without a file start from `config.seed`.

    Args:
        workdir: a new or empty folder.
        files: the original's state dicts by our names (gen_ab, gen_ba, disc_a, disc_b).
        config: that the files must fit; found from the files where there is none.

    Returns:
        The configuration.

    Raises:
        UserError: a file cannot be read or does not fit, or the folder is in use.
    """
    _check_new(workdir)
    tensors = {name: read_tensors(path) for name, path in files.items()}
    if config is None:
        config = _detected(tensors, files)
        size = (config.data.crop_size, config.data.crop_size)
    else:
        config_lib.check(config)
        check_expressible(config)
        size = _image_size(config)
    check_image_size(build_networks(config), *size)
    jax.config.update("jax_enable_x64", config.precision == "float64")
    like = jax.eval_shape(functools.partial(build_state, config, size)).params
    given = {
        name: _naming(files[name], params_from_torch, tensors[name], like[name]) for name in files
    }

    def create() -> TrainState:
        state = build_state(config, size)
        # Only what is left of it is compiled and computed.
        return state.replace(params={n: p for n, p in state.params.items() if n not in given})

    # It runs once: optimising it takes longer, to the same numbers.
    state = jax.jit(create, compiler_options={"xla_backend_optimization_level": 1})()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir {workdir}: cannot be made: {error.strerror}") from error
    checkpoints = Checkpoints(workdir)
    checkpoints.save(state.with_params(state.params | given), config)
    checkpoints.wait()
    checkpoints.close()
    (workdir / "config.json").write_text(config_lib.to_json(config) + "\n")
    return config


def export_networks(workdir: Path, output: Path, checkpoint: str | int = "latest") -> list[Path]:
    """Writes the four networks of a checkpoint as files that the original loads strictly.

    Args:
        workdir: of a run.
        output: folder for `latest_net_G_A.pth` and so on; created where missing.
        checkpoint: latest (that can be read), best, or a step.

    Raises:
        UserError: there is no such checkpoint, the original has no such networks, a file is there
            already, or PyTorch is missing.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError("export needs PyTorch: pip install torch") from error
    paths = {name: output / f"latest_net_{letters}.pth" for name, letters in FILES.items()}
    config, params = _restored(workdir, checkpoint)
    check_expressible(config)
    written = {
        name: torch_from_params(params[name], dropout=config.generator.dropout > 0)
        for name in FILES
    }
    try:
        output.mkdir(parents=True, exist_ok=True)
        for path in paths.values():
            if path.exists():
                raise UserError(f"{path}: there already; choose another --output")
        for name, path in paths.items():
            state = OrderedDict((key, torch.from_numpy(x)) for key, x in written[name].items())
            with path.open("xb") as file:
                torch.save(state, file)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--output {output}: cannot be written: {reason}") from error
    return list(paths.values())


def check_expressible(config: ConfigDict) -> None:
    """Raises UserError for the first field with which networks are not the original's."""
    fields = config_lib.flatten(config)
    for name, choices in _EXPRESSIBLE.items():
        if fields[name] not in choices:
            listed = ", ".join(map(str, choices))
            raise UserError(f"config.{name} is {fields[name]!r}; the PyTorch original has {listed}")


def _detected(tensors: Mapping[str, Tensors], files: dict[str, Path]) -> ConfigDict:
    """The default configuration with the networks of these files."""
    found: dict[str, Any] = {}
    origin: dict[str, Path] = {}
    for name, arrays in tensors.items():
        detect = detect_generator if name.startswith("gen") else detect_discriminator
        fields = _naming(files[name], detect, arrays)
        fields = {_CHANNELS[name].get(field, field): value for field, value in fields.items()}
        different = [
            f"{field} is {value!r}, but {found[field]!r} in {origin[field]}"
            for field, value in fields.items()
            if found.setdefault(field, value) != value
        ]
        if different:
            raise UserError(f"{files[name]}: {'; '.join(different)}")
        origin = dict.fromkeys(fields, files[name]) | origin
    config = default.get_config()
    config.update_from_flattened_dict(found)
    if config.data.channels_a != config.data.channels_b:
        config.loss.identity = 0.0  # which compares images of both
    return config


def _naming(path: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns; its UserError says which file it is about."""
    try:
        return function(*arguments)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _check_new(workdir: Path) -> None:
    """Raises UserError where anything is in the folder already."""
    try:
        taken = workdir.exists() and any(workdir.iterdir())
    except OSError as error:
        raise UserError(f"--workdir {workdir}: cannot be made: {error.strerror}") from error
    if taken:
        raise UserError(f"--workdir {workdir}: not empty; a new or empty folder was expected")


def _image_size(config: ConfigDict) -> tuple[int, int]:
    """Height and width of training images; only without a crop do the images decide."""
    size = data.build_transform(config.data, "a").output_size
    if size is not None:
        return size
    sources = data.Sources(*data.open_split(config.data, "train"), None, None)
    return data.build_train_dataset(config.data, config.seed, config.batch_size, sources).image_size


def _restored(workdir: Path, checkpoint: str | int) -> tuple[ConfigDict, dict[str, Any]]:
    """Configuration and parameters of a checkpoint."""
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"--workdir {workdir}: no checkpoints in it; that of a run was expected")
    config = config_lib.read_json(workdir / "config.json")
    jax.config.update("jax_enable_x64", config.precision == "float64")
    checkpoints = Checkpoints(workdir, read_only=True)
    return config, checkpoints.restore_params(config, checkpoint, averaged=True)[1]


def _load_config(place: str) -> ConfigDict:
    """The configuration of a file, FILE.py or FILE.py:ARGUMENT as for `main.py`."""
    path, _, argument = place.partition(":")
    spec = importlib.util.spec_from_file_location("given_config", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise UserError(f"--config {path}: no such file; see those in configs/")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config: ConfigDict = module.get_config(*([argument] if argument else []))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--config {place}: gives no configuration: {reason}") from error
    return config


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command.Parser(prog="python -m cyclegan_jax.torch_weights", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    reading = commands.add_parser("import", help="PyTorch files to a new work directory")
    reading.add_argument(
        "--workdir", type=command.path, required=True, help="a new or empty folder"
    )
    for name, letters in FILES.items():
        reading.add_argument(
            f"--{name}",
            type=command.path,
            metavar="FILE",
            required=name == "gen_ab",
            help=f"the original's latest_net_{letters}.pth",
        )
    reading.add_argument("--config", help="a file of configs/ that they must fit; found without")
    writing = commands.add_parser("export", help="a work directory to PyTorch files")
    writing.add_argument("--workdir", type=command.path, required=True, help="of a run")
    writing.add_argument("--output", type=command.path, required=True, help="folder for the files")
    writing.add_argument("--checkpoint", default="latest", help="latest (default), best or a step")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """The command line; without arguments, that of the process."""
    given = _parse(arguments)
    if given.command == "export":
        for path in export_networks(given.workdir, given.output, given.checkpoint):
            print(f"wrote {path}")
        return
    files = {name: path for name in FILES if (path := getattr(given, name)) is not None}
    wanted = None if given.config is None else _load_config(given.config)
    config = import_networks(given.workdir, files, wanted)
    for name in FILES:
        origin = f"from {files[name]}" if name in files else f"fresh, from seed {config.seed}"
        print(f"{name}: {origin}")
    if "batch" in (config.generator.norm, config.discriminator.norm):
        print(
            "warning: batch norms use the statistics of each batch here, also after training; "
            "running statistics in the files are passed over",
            file=sys.stderr,
        )
    start = config_lib.flatten(default.get_config() if wanted is None else wanted)
    fields = config_lib.flatten(config)
    flags = "".join(f" --config.{n}={v}" for n, v in fields.items() if v != start[n])
    base = given.config or "configs/default.py"
    print(f"to train on: python main.py --config {base} --workdir {given.workdir}{flags}")
