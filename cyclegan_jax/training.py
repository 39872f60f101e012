"""The training loop: a configuration and a work directory in, a trained state out."""

import contextlib
import fcntl
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from cyclegan_jax import config as config_lib
from cyclegan_jax import data
from cyclegan_jax.build import (
    build_model,
    build_networks,
    build_state,
    check_image_size,
    run_length,
)
from cyclegan_jax.checkpoint import Checkpoints, check_name
from cyclegan_jax.distributed import compile_step, of_first_process, place
from cyclegan_jax.evaluation.build import build_evaluation
from cyclegan_jax.evaluation.metrics import Evaluation
from cyclegan_jax.evaluation.results import Results, value_of
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.metrics_writer import MetricsWriter
from cyclegan_jax.state import TrainState
from cyclegan_jax.step import Batch
from cyclegan_jax.utils.atomic import TEMPORARY, write_text
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.interrupt import InterruptedRun, StopRequest

# Files that a start that failed early leaves in a work directory; see also `utils.atomic`.
_LEFTOVERS = {".lock", "checkpoints", ".config.json.tmp"}


def train(config: ConfigDict, workdir: Path) -> TrainState:
    """Train until the schedule ends; a run can be stopped and resumed at any moment.

    The data order and all random numbers follow from (seed, step) alone, so a resumed run ends in
    the same bits as an uninterrupted one.

    Args:
        config: See `default_config.py`.
        workdir: Created if missing. Receives `config.json`, `checkpoints/`, `samples/`,
            `evaluation/` and TensorBoard's event files.

    Returns:
        The state after the last update.

    Raises:
        UserError: The configuration, data or work directory is wrong, before anything is compiled;
            later, a loss is not finite or a checkpoint cannot be written.
        InterruptedRun: After SIGINT, SIGTERM or SIGHUP, once the state is saved.
    """
    config_lib.check(config, jax.device_count(), jax.default_backend())
    jax.config.update("jax_enable_x64", config.precision == "float64")
    check_workdir(config, workdir)
    sources = data.open_sources(config.data)
    dataset = data.build_train_dataset(config.data, config.seed, config.batch_size, sources)
    num_steps = run_length(config, dataset.pairs_per_epoch)
    model = build_model(config, dataset.pairs_per_epoch)
    check_image_size(model.networks, *dataset.image_size)

    evaluation = None
    if config.evaluate_every_steps and jax.process_index() == 0:
        evaluation = build_evaluation(config, (sources.test_a, sources.test_b))
    best = config.evaluation.best
    higher_is_better = bool(evaluation and best and evaluation.higher_is_better(best))

    with contextlib.ExitStack() as stack:
        stack.enter_context(lock(workdir))
        checkpoints = Checkpoints(
            workdir,
            config.to_dict(),
            keep=config.checkpoints_to_keep,
            backup_every=config.backup_every_steps,
        )
        stack.callback(checkpoints.close)
        state = of_first_process(start_state(config, dataset.image_size, checkpoints))
        start = int(state.step)
        if start >= num_steps:
            logging.info("Nothing to do: at step %d of %d", start, num_steps)
            return state
        sample_images = build_sample_images(config, sources)
        write_config(config, workdir)
        logging.info(
            "%d images of A, %d of B, %d pairs per epoch, %d updates; %d %s device(s)",
            len(sources.train_a),
            len(sources.train_b),
            dataset.pairs_per_epoch,
            num_steps,
            jax.device_count(),
            jax.default_backend(),
        )
        epochs = config.schedule.constant_epochs + config.schedule.decay_epochs
        scheduled = epochs * dataset.pairs_per_epoch // config.batch_size
        if num_steps < scheduled:
            logging.info(
                "num_steps=%d ends the run before the schedule of %d updates, which stays as it is",
                *(num_steps, scheduled),
            )
        writer = build_writer(config, workdir, num_steps, sample_images, evaluation)
        step_fn = compile_step(model)
        batches = dataset.batches(
            start,
            num_steps,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

        stop = stack.enter_context(StopRequest())
        prefetcher = data.Prefetcher(
            batches, place, start_step=start, updates_per_dispatch=config.steps_per_dispatch
        )
        for resource in (writer, batches, prefetcher):
            stack.enter_context(contextlib.closing(resource))
        writer.start(state, config_lib.flatten(config))
        logging.info("Compiling the update, unless it is in the cache; this may take a minute")
        for step, batch, placed in prefetcher:
            if config.sample_at_start and start == 0 and step <= config.steps_per_dispatch:
                writer.samples(state, batch)
            state, metrics = step_fn(state, placed)
            stop.current = "this update"
            prefetcher.track(metrics)
            writer.add(step, metrics)
            signum = stop.agreed()

            def due(every: int, step: int = step) -> bool:
                return every > 0 and (step % every == 0 or step == num_steps)

            if due(config.log_every_steps):
                writer.flush(prefetcher.wait_seconds)
            if due(config.sample_every_steps) or (config.sample_early and is_early(step)):
                writer.samples(state, batch)
            if due(config.evaluate_every_steps):
                # A loss that is not finite must not get into a checkpoint.
                writer.flush(prefetcher.wait_seconds)
                results = writer.evaluate(state)
                if best:
                    save_if_best(checkpoints, state, best, results, higher_is_better)
            if due(config.checkpoint_every_steps) or due(config.backup_every_steps) or signum:
                writer.flush(prefetcher.wait_seconds)
                checkpoints.save(state)
            if signum and step < num_steps:
                checkpoints.wait()
                raise InterruptedRun(signum, f"stopped and saved at step {step} of {num_steps}")
        checkpoints.wait()
        writer.end(state)
        if dataset.skipped:
            logging.warning("%d images could not be read and were skipped", dataset.skipped)
    return state


def build_writer(
    config: ConfigDict,
    workdir: Path,
    num_steps: int,
    sample_images: Callable[[int], Batch],
    evaluation: Evaluation | None,
) -> MetricsWriter:
    """Build the writer of a run; `sample_images` is of `build_sample_images`."""
    networks = build_networks(config)

    def translator(state: TrainState) -> Translator:
        return Translator.of(networks, state.inference_params, int(state.step))

    return MetricsWriter(
        workdir,
        num_steps=num_steps,
        translator=translator,
        images=sample_images,
        batch_images=config.sample_images if config.sample_batch else 0,
        evaluation=evaluation,
        profile=range(config.profile_at_step, config.profile_at_step + config.profile_steps),
    )


def build_sample_images(config: ConfigDict, sources: data.Sources) -> Callable[[int], Batch]:
    """Build the function from a step to the images {a, b} of its sample.

    They are test images, or training images without any: the first ones, or, with
    `sample_random`, others at each step, which depend on (seed, step) alone.

    Raises:
        UserError: An image is unreadable, or the transform rejects it.
    """
    shown, transforms = {}, {}
    for domain in ("a", "b"):
        source = getattr(sources, f"test_{domain}")
        if source is None:
            logging.info("%s has no test images: samples show training images", domain.upper())
            source = getattr(sources, f"train_{domain}")
        shown[domain], transforms[domain] = source, data.build_transform(config.data, domain)

    def read(domain: str, order: np.ndarray | None = None) -> np.ndarray:
        return data.test_images(
            shown[domain],
            transforms[domain],
            config.sample_images,
            skip_unreadable=config.data.skip_unreadable,
            order=order,
        )

    def drawn(step: int) -> Batch:
        return {
            domain: read(domain, data.sample_order(config.seed, step, domain, len(source)))
            for domain, source in shown.items()
        }

    if config.sample_random:
        # Every image may be shown: one that cannot be must not stop the run in its middle.
        for domain, source in shown.items():
            data.check_headers(source, transforms[domain], data.SameSize())
        return drawn
    first = {domain: read(domain) for domain in shown}
    return lambda step: first


def save_if_best(
    checkpoints: Checkpoints,
    state: TrainState,
    metric: str,
    results: Results | None,
    higher_is_better: bool,
) -> None:
    """Save a state whose metric is better than in all states before.

    Args:
        checkpoints: Checkpoints of the run.
        state: State after an update.
        metric: The metric to compare, as in `evaluation.best`.
        results: All metrics of the state; only process 0 needs them.
        higher_is_better: Whether higher values of the metric are better.
    """
    better, value = False, math.nan
    if results is not None:
        value = value_of(metric, results)
        best = checkpoints.best
        sign = 1 if higher_is_better else -1
        better = not math.isnan(value) and (
            best is None or best.metric != metric or sign * value > sign * best.value
        )
    if jax.process_count() > 1:
        better = bool(multihost_utils.broadcast_one_to_all(np.int32(better)))
    if better:
        logging.info("Best checkpoint so far: step %d, %s %.4g", int(state.step), metric, value)
        checkpoints.save(state, best=(metric, value))


def is_early(step: int) -> bool:
    """Return whether `sample_early` samples this step: 1, 2, ... 100, 110, ... 1000, 1100, ..."""
    spacing = 1 if step <= 100 else 10 if step <= 1000 else 100
    return step <= 10_000 and step % spacing == 0


def check_workdir(config: ConfigDict, workdir: Path) -> None:
    """Raise UserError if a folder holds something other than a run of these networks."""
    check_name(workdir)
    path = workdir / "config.json"
    if path.exists():
        stored = config_lib.read_json(path)
        config_lib.check_same_architecture(config, stored, f"work directory {workdir}")
        for line in config_lib.differences(config, stored):
            logging.warning("Changed since the last start of this run: %s", line)
        return
    names = {path.name for path in workdir.iterdir()} if workdir.is_dir() else set()
    if not all(name in _LEFTOVERS or name.startswith(TEMPORARY) for name in names):
        raise UserError(
            f"work directory {workdir}: expected a run, which has a config.json, or an empty "
            "folder, got other files; choose another one"
        )


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Create the work directory and keep other runs out of it.

    Raises:
        UserError: The work directory cannot be written, or another run uses it.
    """
    if jax.process_index() != 0:
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / ".lock").open("a")
    except OSError as error:
        raise UserError(f"work directory {workdir}: cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"work directory {workdir}: in use by another run") from error
        except OSError:
            logging.warning("%s: no file locks here; do not start a second run in it", workdir)
        yield


def write_config(config: ConfigDict, workdir: Path) -> None:
    """Write the configuration to the work directory, atomically.

    Raises:
        UserError: It cannot be written.
    """
    if jax.process_index() != 0:
        return
    try:
        write_text(workdir / "config.json", config_lib.to_json(config) + "\n")
    except OSError as error:
        raise UserError(f"work directory {workdir}: cannot be written: {error.strerror}") from error


def start_state(
    config: ConfigDict, image_size: tuple[int, int], checkpoints: Checkpoints
) -> TrainState:
    """Return the state of the latest checkpoint, or a new one, with the networks of `init_from`."""
    # Runs once: with few optimisations it compiles in half the time, to the same bits.
    options = {"xla_backend_optimization_level": 1}
    create = jax.jit(functools.partial(build_state, config, image_size), compiler_options=options)
    restored = checkpoints.restore(jax.eval_shape(create))
    if restored is not None:
        logging.info("Resuming from the checkpoint of step %d", int(restored.step))
        return restored
    if not config.init_from:
        logging.info("Starting from scratch")
        return create()
    source = Checkpoints(Path(config.init_from).expanduser(), config.to_dict(), read_only=True)
    step, params = source.restore_params()
    state = create()
    if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, state.params):
        raise UserError(
            f"init_from={config.init_from}: expected networks for images of {image_size}, got "
            "networks for another size"
        )
    logging.info("Starting at step 0 with the networks of %s, step %d", config.init_from, step)
    # In this run's precision, and placed like the rest of the state: otherwise the update would be
    # compiled twice, for where it finds the state and for where it leaves it.
    return state.with_params(
        jax.tree.map(lambda x, own: jnp.asarray(np.asarray(x), own.dtype), params, state.params)
    )
