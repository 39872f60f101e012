"""Configurations at the edge: from the command line, checked before compiling, kept as JSON."""

import difflib
import json
import re
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from configs import default
from cyclegan_jax.data import DATA_CHOICES, published
from cyclegan_jax.losses import MODES
from cyclegan_jax.models.discriminators import DISCRIMINATORS, check_discriminator_size
from cyclegan_jax.models.generators import GENERATORS, check_generator_size, has_blocks
from cyclegan_jax.models.layers import INITIALIZERS, NORMS
from cyclegan_jax.schedules import SCHEDULES, total_epochs
from cyclegan_jax.state import PRECISIONS, build_networks
from cyclegan_jax.utils.errors import UserError

CHOICES: dict[str, tuple[Any, ...]] = {
    "precision": PRECISIONS,
    "generator.variant": tuple(GENERATORS),
    "generator.norm": NORMS,
    "discriminator.variant": tuple(DISCRIMINATORS),
    "discriminator.norm": NORMS,
    "init.name": INITIALIZERS,
    "loss.mode": MODES,
    "update_first": ("generators", "discriminators"),
    "schedule.name": SCHEDULES,
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
    "data.threads": 1,
    "data.prefetch_batches": 1,
    "data.shapes_size": 16,
    "data.shapes_train": 1,
    "data.shapes_test": 1,
    "sample_images": 1,
    "checkpoints_to_keep": 1,
    "profile_steps": 1,
}

# What decides the shape of the state: a run cannot go on with another value.
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

# Fields that stored configurations of earlier versions call otherwise: {old name: name}.
RENAMED = {
    "data.treatment": "data.transform",
    "data.max_pictures": "data.max_images",
    "sample_pictures": "sample_images",
}


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """{dotted name: value} of a configuration's fields, in order."""
    flat: dict[str, Any] = {}
    for name in config:
        value = config[name]
        if isinstance(value, ConfigDict | dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def parse_flags(argv: list[str]) -> list[str]:
    """`flags.FLAGS(argv)` for `absl.app.run`, with UserError in place of every traceback."""
    for flag, value in zip(argv[1:], [*argv[2:], ""], strict=False):
        name, equals, rest = flag.lstrip("-").partition("=")
        path = Path((rest if equals else value).split(":")[0])
        if flag.startswith("-") and name == "config" and not path.is_file():
            there = sorted(str(p) for p in Path("configs").glob("[!_]*.py"))
            raise UserError(f"--config={path}: no such file; there are {', '.join(there)}")
    try:
        remaining = flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        known = flatten(default.get_config())
        for arg in argv[1:]:
            field = arg.lstrip("-").removeprefix("config.").split("=")[0]
            if arg.lstrip("-").startswith("config.") and field not in known:
                raise UserError(_unknown(field, known)) from error
        raise UserError(f"command line: {_one_line(error)}") from error
    except UserError:
        raise
    except Exception as error:
        known = flatten(default.get_config())
        illegal = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error))
        if illegal and illegal[1] in known:
            name, text = illegal.groups()
            raise UserError(_ill_typed(name, text, known[name])) from error
        unknown = re.match(r"Unknown command line flag '([\w.]+)'", str(error))
        if unknown and unknown[1] in known:
            raise UserError(f"command line: fields are set as --config.{unknown[1]}=...") from error
        raise UserError(f"command line: {_one_line(error)}") from error
    if len(remaining) > 1:
        raise UserError(f"command line: {remaining[1]!r} is not a flag; flags start with --")
    return remaining


def from_flag(flag: flags.FlagHolder) -> ConfigDict:
    """The configuration of a `--config` flag; UserError where its file does not make one."""
    try:
        config = flag.value
        list(config)  # the flag gives a stand-in for what failed to load, and fails when it is read
    except Exception as error:
        raise UserError(f"--config: {_one_line(error)}; see the files in configs/") from error
    return config


def check(config: ConfigDict) -> None:
    """Raises UserError for the first field that is unknown, ill-typed, or out of its range."""
    known = flatten(default.get_config())
    given = flatten(config)
    for name, value in given.items():
        if name not in known:
            raise UserError(_unknown(name, known))
        _check_type(name, value, known[name])
    for name in known:
        if name not in given:
            raise UserError(f"config.{name} is missing; configs/default.py says what it means")
    for name, choices in CHOICES.items():
        if given[name] not in choices:
            listed = ", ".join(map(str, choices))
            raise UserError(f"config.{name} is {given[name]!r}; choose from {listed}")
    for name, value in given.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            least = AT_LEAST.get(name, 0)
            if not value >= least or value == float("inf"):
                raise UserError(f"config.{name} is {value}; it must be at least {least}")
    _check_together(config)


def _check_together(config: ConfigDict) -> None:
    if config.generator.blocks is not None and not has_blocks(config.generator.variant):
        raise UserError(
            f"config.generator.blocks is {config.generator.blocks}, but {config.generator.variant} "
            "has no residual blocks; leave it unset, or choose a resnet as generator.variant"
        )
    if config.discriminator.sigmoid and config.loss.mode != "lsgan":
        raise UserError(
            f"config.discriminator.sigmoid goes with loss.mode lsgan; {config.loss.mode} takes "
            "unbounded scores"
        )
    given = flatten(config)
    for name in ("optimizer.beta1", "optimizer.beta2", "average_decay", "generator.dropout"):
        if given[name] >= 1:
            raise UserError(f"config.{name} is {given[name]}; it must be below 1")
    if config.data.source == "tfds":
        published.check_name(config.data.name)
    if config.loss.identity > 0 and config.data.channels_a != config.data.channels_b:
        raise UserError(
            "config.loss.identity needs domains of as many channels: data.channels_a is "
            f"{config.data.channels_a}, data.channels_b {config.data.channels_b}; set it to 0"
        )
    if config.num_steps is None and total_epochs(config) < 1:
        raise UserError(
            "config.schedule: constant_epochs + decay_epochs must be at least 1, or set num_steps"
        )
    crops = config.data.transform in ("resize_and_crop", "scale_width_and_crop")
    if crops and config.data.crop_size > config.data.load_size:
        raise UserError(
            f"config.data.crop_size is {config.data.crop_size}; it must be at most data.load_size, "
            f"{config.data.load_size}"
        )
    if config.init_from and not (Path(config.init_from).expanduser() / "checkpoints").is_dir():
        raise UserError(
            f"config.init_from is {config.init_from!r}; the work directory of a run was expected, "
            "with checkpoints in it"
        )
    if config.evaluation.best and not config.evaluate_every_steps:
        raise UserError(
            "config.evaluation.best chooses among figures: set evaluate_every_steps as well"
        )


def check_image_size(config: ConfigDict, height: int, width: int) -> None:
    """Raises UserError unless all four networks take training images of this size."""
    networks = build_networks(config)
    try:
        check_generator_size(networks.gen_ab, height, width)
        check_discriminator_size(networks.disc_a, height, width)
    except UserError as error:
        raise UserError(f"{error}; data.transform and data.crop_size decide the size") from None


def check_same_architecture(config: ConfigDict, stored: ConfigDict, where: str) -> None:
    """Raises UserError where the networks differ; `where` names the stored configuration."""
    given, kept = flatten(config), flatten(stored)
    different = [n for n in ARCHITECTURE if given[n] != kept[n]]
    if different:
        listed = ", ".join(f"{n} {kept[n]!r} (now {given[n]!r})" for n in different)
        raise UserError(f"{where} holds another architecture: {listed}")


def differences(config: ConfigDict, stored: ConfigDict) -> list[str]:
    """'name: was X, is Y' for each field in which two configurations differ."""
    given, kept = flatten(config), flatten(stored)
    return [f"{n}: was {kept[n]!r}, is {given[n]!r}" for n in given if given[n] != kept[n]]


def to_json(config: ConfigDict) -> str:
    """JSON text of all fields."""
    return json.dumps(config.to_dict(), indent=2)


def from_dict(values: dict[str, Any], where: str) -> ConfigDict:
    """A configuration from stored fields; those it lacks, of an older version, get the default.

    Raises:
        UserError: on fields that this version does not know; `where` says whose they are.
    """
    config = default.get_config()
    known = flatten(config)
    for name, value in flatten(values).items():
        name = RENAMED.get(name, name)
        if name not in known:
            raise UserError(f"{where}: {_unknown(name, known)}")
        node = config
        *path, last = name.split(".")
        for part in path:
            node = node[part]
        try:
            node[last] = value
        except TypeError as error:
            raise UserError(f"{where}: config.{name}: {_one_line(error)}") from error
    return config


def read_json(path: Path) -> ConfigDict:
    """The configuration in a file that `to_json` made."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable configuration: {_one_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a configuration: a JSON object was expected")
    return from_dict(values, str(path))


def _check_type(name: str, value: Any, example: Any) -> None:
    # What has no default is a number that may be left unset.
    expected = int if example is None else type(example)
    if example is None and value is None:
        return
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return
    if type(value) is not expected:
        raise UserError(_ill_typed(name, value, example))


def _ill_typed(name: str, value: Any, example: Any) -> str:
    """The message for a value that the field cannot take; its default serves as the example."""
    example = 9 if example is None else example
    kind = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return f"config.{name} is {value!r}; {kind[type(example)]} was expected, as {example!r}"


def _unknown(name: str, known: dict[str, Any]) -> str:
    """The message for a field that does not exist, with the nearest that does."""
    by_last = {full.split(".")[-1]: full for full in known}
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    near += [by_last[m] for m in difflib.get_close_matches(name.split(".")[-1], by_last, n=1)]
    if not near:
        return f"config.{name} is not a field; configs/default.py lists them all"
    best = max(near, key=lambda full: difflib.SequenceMatcher(None, name, full).ratio())
    return (
        f"config.{name} is not a field; the nearest is config.{best} (configs/default.py lists all)"
    )


def _one_line(error: BaseException) -> str:
    """A message in one line, of a traceback inside it only what it ends with."""
    text = " ".join(str(error).split())
    return re.sub(r"Traceback \(most recent call last\).*\s(\w+(Error|Exception): )", r"\1", text)
