"""Compute metrics of a trained model on its test sets.

`python -m cyclegan_jax.evaluate --workdir W` translates the test images of a run in both directions
and prints the metrics of each checkpoint. They are computed from images as they are saved: `--save`
keeps the files, and `--images` computes metrics from such files instead of from a checkpoint.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from cyclegan_jax import config as config_lib
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.evaluation import results as results_lib
from cyclegan_jax.evaluation.build import build_evaluation
from cyclegan_jax.evaluation.image_sets import check_names, make_sets, read_sets, save_sets
from cyclegan_jax.evaluation.metrics import METRICS
from cyclegan_jax.evaluation.results import Results
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.utils import command
from cyclegan_jax.utils.atomic import write_text
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.tensorflow import import_tensorflow


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command.Parser(prog="python -m cyclegan_jax.evaluate", description=__doc__)
    add = parser.add_argument
    add("--workdir", type=command.path, required=True, help="work directory of the run")
    add(
        "--metrics",
        help=f"comma-separated: {', '.join(METRICS)}, or package.module:function of your own; by "
        "default those of the run's configuration, or those that are applicable and need no file",
    )
    add(
        "--checkpoint",
        default="latest",
        help="latest (default), best, all, or comma-separated steps",
    )
    add("--test_a", metavar="FOLDERS", help="test images instead of the run's data.test_a")
    add("--test_b", metavar="FOLDERS", help="test images instead of the run's data.test_b")
    add("--palette_a", metavar="P", help="segmentation: palette of domain A, a name or a file")
    add("--palette_b", metavar="P", help="segmentation: palette of domain B, a name or a file")
    add("--inception", metavar="FILE", help="fid, kid: file of weights instead of downloaded ones")
    add(
        "--save",
        type=command.path,
        metavar="FOLDER",
        help="save the images as FOLDER/STEP/fake_b/NAME.png and so on",
    )
    add(
        "--images",
        "--pictures",  # the name in earlier versions
        type=command.path,
        metavar="FOLDER",
        help="folder of saved images (fake_b, fake_a, ...); results are not stored with the run",
    )
    add("--overwrite", action="store_true", help="let --save replace the images of a step")
    add("--json", type=command.path, metavar="FILE", help="also write the results to a file")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the program.

    Args:
        arguments: Command line without the program's name; by default that of the process.

    Raises:
        UserError: The arguments, the run or its test images are wrong.
    """
    args = _parse(arguments)
    if args.images and (args.save or args.checkpoint != "latest"):
        raise UserError("--images: expected neither --checkpoint nor --save, which need a model")
    if args.json and not args.json.absolute().parent.is_dir():
        raise UserError(f"--json {args.json}: no such folder")
    config = _configuration(args)
    failures: list[UserError] = []
    if args.images:
        evaluation = build_evaluation(config)
        sets = read_sets(args.images, evaluation.real, evaluation.needs)
        results = evaluation.compute(sets)
        columns, table = {str(args.images): results}, results_lib.table({"value": results})
    else:
        evaluated = _evaluate_checkpoints(args, config, failures)
        columns = {str(step): results for step, results in evaluated.items()}
        table = results_lib.table(columns)
    # Results took long to compute, so they are written wherever possible before an error is raised;
    # the table comes last, as its reader may be gone.
    if args.json:
        try:
            write_text(args.json, json.dumps(columns, indent=2) + "\n")
        except OSError as error:
            message = f"--json {args.json}: cannot be written: {error.strerror}"
            failures.append(UserError(message))
    print(table)
    if failures:
        raise failures[0]


def _configuration(args: argparse.Namespace) -> Any:
    """Return the configuration of the run, changed as the arguments say."""
    path = args.workdir / "config.json"
    if not path.is_file():
        raise UserError(f"--workdir {args.workdir}: expected a run, which has a config.json")
    config = config_lib.read_json(path)
    for name in ("metrics", "palette_a", "palette_b", "inception"):
        if getattr(args, name) is not None:
            config.evaluation[name] = getattr(args, name)
    config.evaluation.best = ""
    for name in ("test_a", "test_b"):
        if (value := getattr(args, name)) is not None:
            if config.data.source != "folder":
                raise UserError(
                    f"--{name}: expected a run with data.source=folder, got {config.data.source}"
                )
            config.data[name] = value
    return config


def _evaluate_checkpoints(
    args: argparse.Namespace, config: Any, failures: list[UserError]
) -> dict[int, Results]:
    """Return results by step, and write them to the work directory; append what fails there."""
    checkpoints = _checkpoints(args)
    evaluation = build_evaluation(config)
    if args.save:
        check_names(evaluation.real, "--save")
    is_own_test_set = args.test_a is None and args.test_b is None
    results: dict[int, Results] = {}
    for checkpoint in checkpoints:
        translator = Translator.load(args.workdir, checkpoint=checkpoint)
        saved = args.save and args.save / str(translator.step)
        if saved and saved.exists() and not args.overwrite:
            raise UserError(f"{saved}: exists; --overwrite replaces its images")
        sets = make_sets(translator, evaluation.real, evaluation.needs)
        if saved:
            save_sets(sets, saved)
        results[translator.step] = evaluation.compute(sets)
        if is_own_test_set:
            try:
                results_lib.write_results(args.workdir, translator.step, results[translator.step])
            except UserError as error:
                failures.append(error)
    if is_own_test_set and not failures:
        _write_events(args.workdir, results)
    return results


def _checkpoints(args: argparse.Namespace) -> list[str]:
    """Return the chosen checkpoints; steps are checked to exist."""
    checkpoints = Checkpoints(args.workdir, read_only=True)
    steps = list(map(str, checkpoints.steps))
    checkpoints.close()
    if args.checkpoint in ("latest", "best"):
        return [args.checkpoint]
    chosen = steps if args.checkpoint == "all" else args.checkpoint.split(",")
    for step in chosen or [""]:
        if step not in steps:
            raise UserError(
                f"--checkpoint {args.checkpoint}: expected latest, best, all, or steps of "
                f"{', '.join(steps) or 'a run that has some'}"
            )
    return chosen


def _write_events(workdir: Path, results: dict[int, Results]) -> None:
    """Write the results as scalars for TensorBoard if TensorFlow is installed."""
    try:
        import_tensorflow()
        from clu import metric_writers
    except ImportError:
        return
    writer = metric_writers.SummaryWriter(str(workdir))
    for step, values in sorted(results.items()):
        writer.write_scalars(step, values)
    writer.flush()
    writer.close()


if __name__ == "__main__":
    command.run(main, "the test images do not fit into memory")
