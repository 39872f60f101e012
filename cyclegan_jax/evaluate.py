"""Figures of a trained model on its test sets.

`python -m cyclegan_jax.evaluate --workdir W` translates the test images of the run both ways and
prints what `--metrics` asks for, checkpoint by checkpoint. All figures are computed from images
as they are saved; `--save` keeps those, and `--images` takes them instead of a checkpoint's.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from cyclegan_jax import config as config_lib
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.evaluation import results
from cyclegan_jax.evaluation.image_sets import make_sets, read_sets, save_sets
from cyclegan_jax.evaluation.metrics import METRICS, Evaluation
from cyclegan_jax.evaluation.results import Figures
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.utils import command
from cyclegan_jax.utils.errors import UserError


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command.Parser(prog="python -m cyclegan_jax.evaluate", description=__doc__)
    add = parser.add_argument
    add("--workdir", type=command.path, required=True, help="of a run")
    add(
        "--metrics",
        help=f"with commas between: {', '.join(METRICS)}; by default those of the run's "
        "configuration, or all that apply and need no other file",
    )
    add("--checkpoint", default="latest", help="latest (default), best, all, or steps with commas")
    add("--test_a", metavar="FOLDERS", help="test images instead of the run's data.test_a")
    add("--test_b", metavar="FOLDERS", help="test images instead of the run's data.test_b")
    add("--palette_a", metavar="P", help="segmentation: colours of A (a name or a file)")
    add("--palette_b", metavar="P", help="segmentation: colours of B (a name or a file)")
    add("--inception", metavar="FILE", help="fid, kid: weights, instead of fetching them once")
    add(
        "--save",
        type=command.path,
        metavar="FOLDER",
        help="keep the images: FOLDER/STEP/fake_b/NAME.png",
    )
    add(
        "--images",
        "--pictures",  # the earlier name
        type=command.path,
        metavar="FOLDER",
        help="with fake_b, fake_a, ... made before; the figures are not added to the run's",
    )
    add("--json", type=command.path, metavar="FILE", help="write the figures there as well")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """The command line; without arguments, that of the process.

    Raises:
        UserError: a mistake of the user's.
    """
    given = _parse(arguments)
    if given.images and (given.save or given.checkpoint != "latest"):
        raise UserError("--images takes images as they are: no --checkpoint, no --save")
    if given.json and not given.json.absolute().parent.is_dir():
        raise UserError(f"--json {given.json}: there is no such folder")
    config = _configuration(given)
    if given.images:
        evaluation = Evaluation(config)
        sets = read_sets(given.images, evaluation.real, evaluation.needs)
        scored = evaluation.score(sets)
        found = {str(given.images): scored}
        print(results.table({"figure": scored}))
    else:
        found = {str(k): v for k, v in _evaluate_checkpoints(given, config).items()}
        print(results.table(found))
    if given.json:
        try:
            given.json.write_text(json.dumps(found, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"--json {given.json}: cannot be written: {error.strerror}") from error


def _configuration(given: argparse.Namespace) -> Any:
    """That of the run, with what the command line says of figures."""
    path = given.workdir / "config.json"
    if not path.is_file():
        raise UserError(f"--workdir {given.workdir}: no run in it; config.json was expected")
    config = config_lib.read_json(path)
    for name in ("metrics", "palette_a", "palette_b", "inception"):
        if getattr(given, name) is not None:
            config.evaluation[name] = getattr(given, name)
    config.evaluation.best = ""
    for name in ("test_a", "test_b"):
        if (value := getattr(given, name)) is not None:
            if config.data.source != "folder":
                raise UserError(
                    f"--{name} is for runs on folders; this one is on {config.data.source}"
                )
            config.data[name] = value
    return config


def _evaluate_checkpoints(given: argparse.Namespace, config: Any) -> dict[int, Figures]:
    checkpoints = _checkpoints(given)
    evaluation = Evaluation(config)
    own_tests = given.test_a is None and given.test_b is None
    found: dict[int, Figures] = {}
    for checkpoint in checkpoints:
        translator = Translator.load(given.workdir, checkpoint=checkpoint)
        sets = make_sets(translator, evaluation.real, evaluation.needs)
        if given.save:
            save_sets(sets, given.save / str(translator.step))
        found[translator.step] = evaluation.score(sets)
        if own_tests:
            results.write_figures(given.workdir, translator.step, found[translator.step])
    if own_tests:
        _write_events(given.workdir, found)
    return found


def _checkpoints(given: argparse.Namespace) -> list[str]:
    """Those that are asked for; all but latest and best are there."""
    opened = Checkpoints(given.workdir, read_only=True)
    there = list(map(str, opened.steps))
    opened.close()
    if given.checkpoint in ("latest", "best"):
        return [given.checkpoint]
    wanted = there if given.checkpoint == "all" else given.checkpoint.split(",")
    for step in wanted or [""]:
        if step not in there:
            listed = ", ".join(there) or "none"
            raise UserError(
                f"--checkpoint {given.checkpoint}: choose latest, best, all or steps of {listed}"
            )
    return wanted


def _write_events(workdir: Path, found: dict[int, Figures]) -> None:
    """The figures as TensorBoard's scalars, where TensorFlow is installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        import tensorflow as tf
        from clu import metric_writers
    except ImportError:
        return
    tf.config.set_visible_devices([], "GPU")
    writer = metric_writers.SummaryWriter(str(workdir))
    for step, values in sorted(found.items()):
        writer.write_scalars(step, values)
    writer.flush()
    writer.close()


if __name__ == "__main__":
    command.run(main, "the test images do not fit into memory")
