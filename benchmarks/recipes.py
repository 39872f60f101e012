"""Train a small version of every recipe on the built-in images, and evaluate it.

    python -m benchmarks.recipes [--only NAMES] [--workdir FOLDER] [--json FILE]

A recipe keeps its architecture, losses, order and number of updates, pool, pairing and transform.
Width, blocks, images and the discriminators' depth are smaller; learning rate and length are
adapted. Two recipes train at a time, in separate processes.
"""

import argparse
import contextlib
import importlib
import io
import json
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

# {recipe: (updates, learning rate)}, longest first; 400 updates are an epoch. (celeba_glasses is
# celeba_hair on other faces.)
RUNS = {
    "monet2photo": (800, 5e-4),
    "horse2zebra": (800, 5e-4),
    "horse2zebra_224": (600, 7e-4),
    "celeba_hair": (300, 1e-3),
    "firewatch": (300, 1e-3),
}
SIZE = 64  # instead of 256 pixels


def small(recipe: str, seed: int) -> Any:
    """Return the recipe's configuration for built-in images of a quarter of its size."""
    config = importlib.import_module(f"configs.{recipe}").get_config()
    num_steps, learning_rate = RUNS[recipe]
    config.seed = seed
    config.precision = "float32"  # bfloat16 is slower on CPUs
    config.generator.width = 16
    config.generator.blocks = 3
    config.discriminator.width = 16
    config.discriminator.layers -= 1
    config.optimizer.learning_rate = learning_rate
    config.num_steps = num_steps
    config.data.source = "shapes"
    config.data.shapes_size = SIZE
    config.data.load_size = round(config.data.load_size * SIZE / 256)
    config.data.crop_size = round(config.data.crop_size * SIZE / 256)
    if config.data.transform == "scale_shorter_and_crop":
        # The same for square images, but for tests, whose metrics need the whole scene.
        config.data.transform = "resize_and_crop"
    if config.data.transform == "crop":
        # Tests are cropped as well: scenes of the size of the crop, which are random themselves.
        config.data.shapes_size = config.data.crop_size
    # A rate that decays does so within the run.
    epochs = max(1, num_steps // config.data.shapes_train)
    decays = config.schedule.name == "linear"
    config.schedule.constant_epochs = (epochs + 1) // 2 if decays else epochs
    config.schedule.decay_epochs = epochs - config.schedule.constant_epochs
    config.log_every_steps = 100
    config.sample_every_steps = num_steps
    config.sample_early = config.sample_at_start = False
    config.checkpoint_every_steps = 0
    config.backup_every_steps = 0
    config.evaluate_every_steps = num_steps
    return config


def learn(recipe: str, seed: int, workdir: Path) -> dict[str, Any]:
    """Train one recipe; return its name, seconds (including compilation) and metrics."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from cyclegan_jax.evaluation.results import read_results
    from cyclegan_jax.training import train

    config = small(recipe, seed)
    start = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        train(config, workdir)
    seconds = round(time.monotonic() - start)
    metrics = read_results(workdir)[config.num_steps]
    return {"recipe": recipe, "updates": config.num_steps, "seconds": seconds} | metrics


def main() -> None:
    """Train all recipes, and print a row for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="recipes that train at a time")
    parser.add_argument("--workdir", type=Path, help="folder of the runs (default: temporary)")
    parser.add_argument("--json", type=Path, help="file of results")
    arguments = parser.parse_args()

    columns = ("updates", "seconds", "a_to_b/object_iou", "b_to_a/object_iou")
    print(f"{'recipe':<17}" + "".join(f"{name:>19}" for name in columns), flush=True)
    start = time.monotonic()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        workdir = arguments.workdir or Path(scratch)
        # JAX does not support forks.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(arguments.jobs, mp_context=context) as pool:
            runs = [pool.submit(learn, r, arguments.seed, workdir / r) for r in arguments.only]
            for run in as_completed(runs):
                rows.append(run.result())
                values = (f"{rows[-1][name]:>19.4g}" for name in columns)
                print(f"{rows[-1]['recipe']:<17}" + "".join(values), flush=True)
    print(f"{time.monotonic() - start:.0f} s in all")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
