"""Configurations at the edge: parsed from the command line, checked once, stored as JSON."""

import difflib
import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from cyclegan_jax.data import DATA_CHOICES, DATA_REGISTRIES, build_transform
from cyclegan_jax.default_config import get_config
from cyclegan_jax.losses import ADVERSARIAL_LOSSES, EXTRA_LOSSES
from cyclegan_jax.models.discriminators import DISCRIMINATORS
from cyclegan_jax.models.generators import GENERATORS
from cyclegan_jax.models.layers import INITIALIZERS, NORMS
from cyclegan_jax.optimizers import OPTIMIZERS
from cyclegan_jax.schedules import SCHEDULES
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.registry import build, lookup

# Fields that name entries of registries, or package.module:attribute.
REGISTRIES: dict[str, Mapping[str, Any]] = {
    "generator.variant": GENERATORS,
    "generator.norm": NORMS,
    "discriminator.variant": DISCRIMINATORS,
    "discriminator.norm": NORMS,
    "init.name": INITIALIZERS,
    "loss.mode": ADVERSARIAL_LOSSES,
    "loss.extra": EXTRA_LOSSES,
    "optimizer.name": OPTIMIZERS,
    "schedule.name": SCHEDULES,
    **{f"data.{name}": entries for name, entries in DATA_REGISTRIES.items()},
}

CHOICES: dict[str, Collection[Any]] = {
    "precision": ("float32", "bfloat16", "float64"),
    "kernels": ("xla", "triton"),
    "update_first": ("generators", "discriminators"),
    "discriminator_steps": ("joint", "real_then_fake"),
    "loss.identity_step": ("joint", "separate"),
    **{f"data.{name}": choices for name, choices in DATA_CHOICES.items()},
}

# Smallest allowed value of the numbers for which 0 makes no sense; the others must be at least 0.
AT_LEAST: dict[str, float] = {
    "batch_size": 1,
    "micro_batches": 1,
    "steps_per_dispatch": 1,
    "num_steps": 1,
    "generator.blocks": 1,
    "generator.width": 1,
    "discriminator.width": 1,
    "discriminator.layers": 1,
    "discriminator.scales": 1,
    "loss.identity_every_steps": 1,
    "generator_updates": 1,
    "discriminator_updates": 1,
    "schedule.step_epochs": 1,
    "data.channels_a": 1,
    "data.channels_b": 1,
    "data.load_size": 1,
    "data.crop_size": 1,
    "data.crop_width": 1,
    "data.threads": 1,
    "data.prefetch_batches": 1,
    "data.shapes_size": 16,
    "data.shapes_train": 1,
    "data.shapes_test": 1,
    "sample_images": 1,
    "checkpoints_to_keep": 1,
    "profile_steps": 1,
}
# Largest allowed value of the numbers for which more is a slip: it would overflow, exhaust memory,
# or be silent for hours. The others must be at most `_AT_MOST`, by type.
AT_MOST: dict[str, float] = {
    "seed": 2**32 - 1,
    "batch_size": 2**16,
    "micro_batches": 2**16,
    "steps_per_dispatch": 1000,
    "num_steps": 2**31 - 1,
    "generator.blocks": 1000,
    "generator.width": 2**13,
    "discriminator.width": 2**13,
    "discriminator.layers": 16,
    "discriminator.scales": 16,
    "pool_size": 10**5,
    "generator_updates": 1000,
    "discriminator_updates": 1000,
    "schedule.constant_epochs": 10**6,
    "schedule.decay_epochs": 10**6,
    "schedule.step_epochs": 10**6,
    "data.load_size": 2**15,
    "data.crop_size": 2**15,
    "data.crop_width": 2**15,
    "data.cache_gib": 2**20,
    "data.threads": 1024,
    "data.prefetch_batches": 1000,
    "data.shapes_size": 2**13,
    "data.shapes_train": 10**6,
    "data.shapes_test": 10**5,
    "sample_images": 1000,
    "profile_steps": 1000,
}
_AT_MOST = {int: 10**9, float: 1e30}
BELOW_ONE = ("optimizer.beta1", "optimizer.beta2", "average_decay", "generator.dropout")

# Fields that decide the shape of the state: a run cannot be resumed with another value.
ARCHITECTURE = (
    "generator.variant",
    "generator.blocks",
    "generator.width",
    "generator.norm",
    "discriminator.variant",
    "discriminator.width",
    "discriminator.layers",
    "discriminator.norm",
    "discriminator.sigmoid",
    "discriminator.scales",
    "data.channels_a",
    "data.channels_b",
)

# Fields that have another name in stored configurations of earlier versions: {old name: name}.
RENAMED = {
    "data.treatment": "data.transform",
    "data.max_pictures": "data.max_images",
    "sample_pictures": "sample_images",
}

# Fields that hold several paths, separated by commas.
_PATH_LISTS = ("data.train_a", "data.train_b", "data.test_a", "data.test_b")

PERIODS = ("log", "sample", "evaluate", "checkpoint", "backup")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return {dotted name: value} of a configuration's fields, in order."""
    flat: dict[str, Any] = {}
    for name in config:
        value = config[name]
        if isinstance(value, ConfigDict | dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def parse_flags(argv: list[str]) -> list[str]:
    """Run `flags.FLAGS(argv)` for `absl.app.run`, with UserError in place of every traceback."""
    # The shell does not expand the ~ of --config=~/x.
    argv = [re.sub(r"^(--?config=)~/", rf"\1{Path.home()}/", argument) for argument in argv]
    argv = ["--help" if argument == "-h" else argument for argument in argv]
    for flag, value in zip(argv[1:], [*argv[2:], ""], strict=False):
        name, equals, rest = flag.lstrip("-").partition("=")
        path = Path((rest if equals else value).split(":")[0])
        if flag.startswith("-") and name == "config" and not path.is_file():
            folder = Path("configs")
            if not folder.is_dir():  # started from another folder
                folder = Path(__file__).parents[1] / folder
            files = ", ".join(sorted(str(p) for p in folder.glob("[!_]*.py")))
            raise UserError(f"--config={path}: no such file; choose from {files or 'your own'}")
    try:
        remaining = flags.FLAGS(argv)
    except UserError:
        raise
    except Exception as error:
        raise _flag_error(argv, error) from error
    if len(remaining) > 1:
        raise UserError(f"command line: expected flags (--name=value), got {remaining[1]!r}")
    return remaining


def _flag_error(argv: list[str], error: Exception) -> UserError:
    """Return the UserError for what absl or ml_collections raised on a command line."""
    known = flatten(get_config())
    if isinstance(error, AttributeError | KeyError):
        for arg in argv[1:]:
            field = arg.lstrip("-").removeprefix("config.").split("=")[0]
            if arg.lstrip("-").startswith("config.") and field not in known:
                return UserError(_unknown(field, known))
    wrong_type = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error))
    if wrong_type and wrong_type[1] in known:
        name, text = wrong_type.groups()
        return UserError(_wrong_type(name, text, known[name]))
    missing = re.match(r"flag --(\w+)=None: Flag .* must have a value", str(error))
    if missing:
        return UserError(f"--{missing[1]} is missing: expected --config FILE and --workdir FOLDER")
    argument = re.match(r"flag --config=(.+?):([^:]*): .*get_config\(\) takes 0 ", _one_line(error))
    if argument:
        return UserError(
            f"--config={argument[1]}: expected no argument, which its get_config does not take, "
            f"got {argument[2]!r}"
        )
    unknown = re.match(r"Unknown command line flag '([\w.]+)'", str(error))
    if unknown and unknown[1] in known:
        return UserError(f"command line: fields are set as --config.{unknown[1]}=...")
    return UserError(f"command line: {_one_line(error)}")


def from_flag(flag: flags.FlagHolder) -> ConfigDict:
    """Return the configuration of a `--config` flag; UserError if its file fails to make one."""
    try:
        config = flag.value
        list(config)  # the flag holds a stand-in for what failed to load, which fails when read
    except Exception as error:
        raise UserError(f"--config: {_one_line(error)}; see the files in configs/") from error
    return config


def check(config: ConfigDict, devices: int = 1, backend: str = "gpu") -> None:
    """Raise UserError for the first field that is unknown, has a wrong type, or a wrong value.

    Args:
        config: See `default_config.py`.
        devices: Number of devices of all processes that share a batch.
        backend: What they are: cpu, gpu.
    """
    known = flatten(get_config())
    values = flatten(config)
    for name, value in values.items():
        if name not in known:
            raise UserError(_unknown(name, known))
        _check_type(name, value, known[name])
    for name in known:
        if name not in values:
            raise UserError(f"config.{name} is missing; see cyclegan_jax/default_config.py")
    for name, entries in REGISTRIES.items():
        names = values[name].split(",") if name == "loss.extra" else [values[name]]
        for entry in filter(None, names):
            lookup(f"config.{name}", entry.strip(), entries)
    for name, choices in CHOICES.items():
        if values[name] not in choices:
            raise UserError(_expected(name, f"one of {', '.join(map(str, choices))}", values[name]))
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            least = AT_LEAST.get(name, 0)
            if not value >= least:
                raise UserError(_expected(name, f"at least {least}", value))
            most = AT_MOST.get(name, _AT_MOST[type(known[name] or 0)])
            if value > most:
                raise UserError(_expected(name, f"at most {most}", value))
    for name in BELOW_ONE:
        if values[name] >= 1:
            raise UserError(_expected(name, "a number below 1", values[name]))
    for rule in _RULES:
        rule(config)
    _check_devices(config, devices)
    if config.kernels == "triton" and backend != "gpu":
        raise UserError(
            f"config.kernels: expected xla on a {backend}, got triton, which needs an NVIDIA GPU "
            "(jax.devices() lists what JAX finds)"
        )


def _check_bounded_scores(config: ConfigDict) -> None:
    entry = lookup("loss.mode", config.loss.mode, ADVERSARIAL_LOSSES)
    optional = {"real_label": (config.loss.real_label, 1.0)}
    loss = build("loss", config.loss.mode, entry, optional=optional)
    if config.discriminator.sigmoid and not loss.bounded:
        raise UserError(
            f"config.discriminator.sigmoid: expected false, because loss.mode={config.loss.mode} "
            "needs unbounded scores; use loss.mode=lsgan"
        )


def _check_identity(config: ConfigDict) -> None:
    a, b = config.data.channels_a, config.data.channels_b
    if config.loss.identity > 0 and a != b:
        raise UserError(
            "config.loss.identity: expected 0 for domains of different channels, got "
            f"{config.loss.identity} with data.channels_a={a} and data.channels_b={b}"
        )


def _check_epochs(config: ConfigDict) -> None:
    epochs = config.schedule.constant_epochs + config.schedule.decay_epochs
    if config.num_steps is None and epochs < 1:
        raise UserError(
            "config.schedule: expected constant_epochs + decay_epochs of at least 1, or num_steps, "
            f"got {epochs}"
        )


def _check_transform(config: ConfigDict) -> None:
    build_transform(config.data, "a")


def _check_init_from(config: ConfigDict) -> None:
    if config.init_from and not (Path(config.init_from).expanduser() / "checkpoints").is_dir():
        raise UserError(
            _expected("init_from", "the work directory of a run with checkpoints", config.init_from)
        )


def _check_best(config: ConfigDict) -> None:
    if config.evaluation.best and not config.evaluate_every_steps:
        raise UserError(
            "config.evaluate_every_steps: expected a period for evaluation.best, which compares "
            "metrics, got 0"
        )


# Checks of fields that depend on each other.
_RULES: tuple[Callable[[ConfigDict], None], ...] = (
    _check_bounded_scores,
    _check_identity,
    _check_epochs,
    _check_transform,
    _check_init_from,
    _check_best,
)


def _check_devices(config: ConfigDict, devices: int) -> None:
    """Raise UserError if the batch or a period cannot be split as configured."""
    if config.batch_size % devices:
        raise UserError(
            f"config.batch_size: expected a multiple of the {devices} devices, got "
            f"{config.batch_size} (CUDA_VISIBLE_DEVICES selects fewer)"
        )
    pairs, parts = config.batch_size // devices, config.micro_batches or 1
    if pairs % parts:
        raise UserError(_expected("micro_batches", f"a divisor of a device's {pairs} pairs", parts))
    if parts > 1 and "batch" in (config.generator.norm, config.discriminator.norm):
        raise UserError(
            f"config.micro_batches: expected 1 for batch norm, which needs the whole batch, got "
            f"{parts}"
        )
    updates = config.steps_per_dispatch
    for name in (f"{period}_every_steps" for period in PERIODS):
        if config[name] % updates:
            raise UserError(
                _expected(name, f"a multiple of steps_per_dispatch={updates}", config[name])
            )
    if updates > 1 and config.sample_early:
        raise UserError(
            "config.steps_per_dispatch: expected 1 for sample_early, which samples single steps, "
            f"got {updates}"
        )


def check_same_architecture(config: Any, stored: Any, source: str) -> None:
    """Raise UserError if the networks of two configurations differ.

    Args:
        config: A configuration, or its fields as a plain dictionary.
        stored: Likewise.
        source: Name of the stored one.
    """
    now, before = flatten(config), flatten(stored)
    different = [name for name in ARCHITECTURE if now[name] != before[name]]
    if different:
        listed = ", ".join(f"{n} {before[n]!r} (now {now[n]!r})" for n in different)
        raise UserError(f"{source} holds another architecture: {listed}")


def differences(config: ConfigDict, stored: ConfigDict) -> list[str]:
    """Return "name: was X, is Y" for each field in which two configurations differ."""
    now, before = flatten(config), flatten(stored)
    return [f"{n}: was {before[n]!r}, is {now[n]!r}" for n in now if now[n] != before[n]]


def to_json(config: ConfigDict) -> str:
    """Return the JSON text of all fields."""
    return json.dumps(config.to_dict(), indent=2)


def without_folders(config: ConfigDict) -> ConfigDict:
    """Return a configuration to show to others: paths are reduced to their last part."""
    config = config.copy_and_resolve_references()
    for name, value in flatten(config).items():
        if isinstance(value, str) and name != "evaluation.best":  # the name of a metric, a_to_b/fid
            paths = value.split(",") if name in _PATH_LISTS else [value]
            shown = ",".join(Path(path).name if "/" in path else path for path in paths)
            config.update_from_flattened_dict({name: shown})
    return config


def from_dict(values: dict[str, Any], source: str) -> ConfigDict:
    """Build a configuration from stored fields; fields that an older version lacks get defaults.

    Raises:
        UserError: A field is unknown or has a wrong type; `source` names where it is from.
    """
    config = get_config()
    known = flatten(config)
    for name, value in flatten(values).items():
        name = RENAMED.get(name, name)
        if name not in known:
            raise UserError(f"{source}: {_unknown(name, known)}")
        node = config
        *path, last = name.split(".")
        for part in path:
            node = node[part]
        try:
            node[last] = value
        except TypeError as error:
            raise UserError(f"{source}: config.{name}: {_one_line(error)}") from error
    return config


def read_json(path: Path) -> ConfigDict:
    """Read the configuration from a file that `to_json` made."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a configuration: {_one_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a configuration, which is a JSON object")
    return from_dict(values, str(path))


def _check_type(name: str, value: Any, example: Any) -> None:
    # A field without a default is a number that may be unset.
    expected = int if example is None else type(example)
    if example is None and value is None:
        return
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return
    if type(value) is not expected:
        raise UserError(_wrong_type(name, value, example))


def _wrong_type(name: str, value: Any, example: Any) -> str:
    example = 9 if example is None else example
    kind = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    return _expected(name, f"{kind[type(example)]} such as {example!r}", value)


def _expected(name: str, expected: str, value: Any) -> str:
    return f"config.{name}: expected {expected}, got {value!r}"


def _unknown(name: str, known: dict[str, Any]) -> str:
    """Return the message for a field that does not exist, with the nearest that does."""
    by_last = {full.split(".")[-1]: full for full in known}
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    near += [by_last[m] for m in difflib.get_close_matches(name.split(".")[-1], by_last, n=1)]
    if not near:
        return f"config.{name} is not a field; cyclegan_jax/default_config.py lists all"
    best = max(near, key=lambda full: difflib.SequenceMatcher(None, name, full).ratio())
    return (
        f"config.{name} is not a field; the nearest is config.{best} "
        "(cyclegan_jax/default_config.py lists all)"
    )


def _one_line(error: BaseException) -> str:
    """Return a message in one line; of a traceback inside it, only its last line."""
    text = " ".join(str(error).split())
    return re.sub(r"Traceback \(most recent call last\).*\s(\w+(Error|Exception): )", r"\1", text)
