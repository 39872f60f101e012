"""Random configurations, of which each trains for one or two updates or is refused in one line.

    python -m tests.campaigns.configs --trials 1000

Each trial changes a few fields of a very small configuration to values that are usual, at the edge
of the allowed range or outside it, or to names of registries, and trains on the built-in images or
on a small folder of images of several sizes. A configuration that is refused must leave nothing in
the work directory; one that trains must leave a checkpoint that a second start accepts.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cyclegan_jax import config as config_lib
from cyclegan_jax.default_config import get_config
from cyclegan_jax.training import train
from cyclegan_jax.utils.command import lacks_memory
from cyclegan_jax.utils.errors import UserError
from tests import short
from tests.campaigns import harness

# Fields for which large numbers are legal, and only slow.
SIZES = [
    "batch_size",
    "generator.width",
    "generator.blocks",
    "discriminator.width",
    "discriminator.layers",
    "discriminator.scales",
    "data.channels_a",
    "data.channels_b",
    "data.load_size",
    "data.crop_size",
    "data.crop_width",
    "data.shapes_size",
    "data.shapes_train",
    "data.shapes_test",
    "pool_size",
    "generator_updates",
    "discriminator_updates",
    "steps_per_dispatch",
    "data.threads",
    "num_steps",
    "data.prefetch_batches",
    "sample_images",
    "micro_batches",
]
INTEGERS = (-1, 0, 1, 2, 3, 4, 5, 8, 16, 17, 32)
LARGE = (1000, 10**6, 2**31 - 1, 2**31, 2**63, 10**30)
NUMBERS = (-1.0, 0.0, 1e-8, 0.1, 0.5, 0.9, 0.999, 1.0, 1.5, 10.0, 1e6, 1e38, 1e300)
STRANGE = (float("nan"), float("inf"), -float("inf"))
TEXTS = ("", "x", "no.such:thing", "tests.smallest:filtered_cycle", "/", "ä\n", "a,b", "..")
METRICS = ("truth", "cycle", "identity", "paired", "segmentation", "cycle,identity", "kid", "x")
BEST = ("cycle_a/l1", "truth", "psnr", "mean_iou", "a_to_b/mean_iou", "cycle")
PALETTES = ("cityscapes", "facades", "shapes_a", "shapes_b", "nowhere")


def random_value(name: str, default: Any, rng: np.random.Generator) -> Any:
    """Draw a value for a field."""
    if name in config_lib.REGISTRIES and rng.random() < 0.9:
        return str(rng.choice(sorted(config_lib.REGISTRIES[name]) or [""]))
    if name in config_lib.CHOICES and rng.random() < 0.9:
        choices = list(config_lib.CHOICES[name])
        return choices[int(rng.integers(len(choices)))]
    named = {"evaluation.metrics": METRICS, "evaluation.best": BEST}
    named |= {f"evaluation.palette_{domain}": PALETTES for domain in "ab"}
    if name in named:
        return str(rng.choice(named[name]))
    if isinstance(default, bool):
        return bool(rng.random() < 0.5)
    if isinstance(default, int) or default is None:
        large = name not in SIZES and rng.random() < 0.2
        numbers = LARGE if large else INTEGERS
        return numbers[int(rng.integers(len(numbers)))]
    if isinstance(default, float):
        return float(rng.choice(STRANGE if rng.random() < 0.1 else NUMBERS))
    return str(rng.choice(TEXTS))


def random_config(rng: np.random.Generator, folder: Path) -> tuple[ConfigDict, dict[str, Any]]:
    """Draw a configuration; return it and the fields that were changed."""
    config = short.get_config()
    config.update({"num_steps": 1, "log_every_steps": 1, "sample_every_steps": 1})
    config.data.shapes_train, config.data.shapes_test, config.sample_images = 3, 2, 1
    changes: dict[str, Any] = {}
    if rng.random() < 0.4:
        write_folder(rng, folder)
        changes |= {"data.source": "folder", "data.dir": str(folder)}
        changes |= {"data.transform": "resize_and_crop", "data.load_size": 20}
        changes |= {"data.crop_size": 16}
    fields = config_lib.flatten(get_config())
    names = sorted(set(fields) - {"num_steps", "data.dir"})
    for name in rng.choice(names, int(rng.integers(1, 9)), replace=False):
        changes[str(name)] = random_value(str(name), fields[str(name)], rng)
    config.update_from_flattened_dict(
        {name: value for name, value in changes.items() if value is not None}
    )
    if config.steps_per_dispatch > 1:
        config.num_steps = config.steps_per_dispatch
    return config, changes


def write_folder(rng: np.random.Generator, folder: Path) -> None:
    """Write two to four images per domain, of one size or of several."""
    folder.mkdir()
    sizes = [(24, 24)] if rng.random() < 0.5 else [(24, 24), (20, 33), (40, 24)]
    modes = ["RGB"] if rng.random() < 0.5 else ["RGB", "L", "RGBA", "I;16"]
    for name in ("trainA", "trainB", "testA", "testB"):
        if name.startswith("test") and rng.random() < 0.3:
            continue
        (folder / name).mkdir()
        for number in range(int(rng.integers(2, 5))):
            height, width = sizes[int(rng.integers(len(sizes)))]
            mode = str(rng.choice(modes))
            if mode == "I;16":
                image = Image.fromarray(rng.integers(0, 65536, (height, width), np.uint16))
            else:
                pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
                image = Image.fromarray(pixels).convert(mode)
            image.save(folder / name / f"{number}.png")


def trial(seed: int, folder: Path) -> str:
    """Train with a random configuration."""
    rng = np.random.default_rng(seed)
    workdir = folder / "run"
    try:
        config, changes = random_config(rng, folder / "images")
    except (TypeError, ValueError, OverflowError) as error:
        return f"ml_collections refuses it: {error}"
    try:
        state = train(config, workdir)
    except UserError as error:
        check_refusal(workdir, str(error), changes)
        raise UserError(f"{error} {changes}") from None
    except jax.errors.JaxRuntimeError as error:
        if not lacks_memory(error):
            raise
        raise UserError(f"does not fit into memory: {changes}") from None
    except Exception as error:
        raise RuntimeError(f"{changes}") from error
    if config.checkpoint_every_steps and config.checkpoints_to_keep:
        again = train(config, workdir)
        if int(again.step) != int(state.step):
            raise harness.WrongResultError(f"resumed at {int(again.step)}: {changes}")
    return str(changes)


def check_refusal(workdir: Path, message: str, changes: dict[str, Any]) -> None:
    """Raise WrongResultError if a refusal left files although nothing was trained."""
    if "finite value" in message or not workdir.exists():
        return
    left = [path.name for path in workdir.rglob("*") if path.is_file() and path.name != ".lock"]
    if left:
        raise harness.WrongResultError(f"{message} {changes}: left {left}")


if __name__ == "__main__":
    run = harness.in_processes(trial, seconds=180, mib=8000, growth=3000)
    harness.main(__doc__, harness.separate_trials(run), trials=1000)
