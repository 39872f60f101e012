"""Output of a run: log, TensorBoard's event files, sample images and metrics of the test sets."""

import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from cyclegan_jax.evaluation import results
from cyclegan_jax.evaluation.metrics import Evaluation
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.losses import Metrics
from cyclegan_jax.state import TrainState, count_parameters
from cyclegan_jax.step import Batch
from cyclegan_jax.utils import image_io
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.tensorflow import import_tensorflow

# Updates whose metrics may stay on the device, unchecked.
_MAX_PENDING = 1000


class MetricsWriter:
    """Writer of the log, TensorBoard and the work directory; files are written by process 0."""

    # Of clu.periodic_actions, ReportProgress writes the speed under another tag, rounds it to 0.1
    # in the log and has no `input_wait`; Profile stops without waiting for the devices, and not
    # at all where the run ends first. Both count single steps with `every_steps`.

    def __init__(
        self,
        workdir: Path,
        *,
        num_steps: int,
        translator: Callable[[TrainState], Translator],
        images: Callable[[int], Batch],
        batch_images: int = 0,
        evaluation: Evaluation | None = None,
        profile: range = range(0),
    ):
        """Open the event files.

        Args:
            workdir: Work directory of the run.
            num_steps: Number of updates in the whole run.
            translator: Returns the translator from A to B of a state.
            images: Returns the images of the sample of a step, {a, b}, [n, H, W, C].
            batch_images: Number of images of the current batch that samples show as well.
            evaluation: Computes the metrics of the test sets; None to compute none.
            profile: Steps that JAX's profiler records.
        """
        self._workdir = workdir
        self._num_steps = num_steps
        self._translator = translator
        self._images = images
        self._batch_images = batch_images
        self._evaluation = evaluation
        self._profile = profile
        self._is_profiling = False
        self._is_writer = jax.process_index() == 0
        import_tensorflow()
        from clu import metric_writers

        self._writer = metric_writers.create_default_writer(
            str(workdir), just_logging=not self._is_writer, asynchronous=False
        )
        self._pending: list[tuple[int, Metrics]] = []
        self._totals: dict[str, float] = {}
        self._count, self._last_step = 0, 0
        self._last: dict[str, float] = {}
        self._last_flush: tuple[int, float, float] | None = None

    def start(self, state: TrainState, hparams: dict[str, Any]) -> None:
        """Write hyperparameters and network sizes; evaluate the untrained networks of a new run.

        Args:
            state: State before the first update.
            hparams: The configuration's fields by dotted name.
        """
        self._writer.write_hparams({name: str(value) for name, value in hparams.items()})
        for name, params in state.params.items():
            logging.info("%s has %s parameters", name, f"{count_parameters(params):,}")
        if int(state.step) == 0:
            self.evaluate(state)

    def add(self, step: int, metrics: Metrics) -> None:
        """Record the metrics of one or several updates.

        They stay on the device until `flush`, or until they are many.

        Args:
            step: Number of updates done.
            metrics: Scalars, or [n] of the last n updates.

        Raises:
            UserError: A metric is not finite; the message names the first such step.
        """
        self._pending.append((step, metrics))
        updates = next(iter(metrics.values())).size
        if len(self._pending) * updates >= _MAX_PENDING:
            self._collect()
        if step - updates < self._profile.start <= step:
            jax.profiler.start_trace(str(self._workdir))
            self._is_profiling = True
        elif self._is_profiling and step >= self._profile.stop:
            jax.block_until_ready(metrics)
            self._stop_profile()

    def flush(self, waited: float = 0.0) -> None:
        """Write the mean metrics since the last call, with the speed and the time left.

        Args:
            waited: Seconds since the start in which the devices waited for images.

        Raises:
            UserError: A metric is not finite; the message names the first such step.
        """
        self._collect()
        if not self._count:
            return
        means = {name: total / self._count for name, total in self._totals.items()}
        means["learning_rate"] = self._last["learning_rate"]  # a mean would blur its changes
        self._totals, self._count = {}, 0
        self._writer.write_scalars(self._last_step, means | self._speed(self._last_step, waited))

    def _collect(self) -> None:
        """Check the metrics on the device, and add them to the totals since the last `flush`."""
        for step, row in _by_update(jax.device_get(self._pending)):
            for name, value in row.items():
                if not np.isfinite(value):
                    raise UserError(
                        f"{name} at step {step}: expected a finite value, got {value}; earlier "
                        "checkpoints remain; a lower optimizer.learning_rate or "
                        "precision=float32 may help"
                    )
                self._totals[name] = self._totals.get(name, 0.0) + value
            self._count += 1
            self._last_step, self._last = step, row
        self._pending.clear()

    def samples(self, state: TrainState, batch: Batch) -> None:
        """Write a grid of samples for each direction, as PNG and to TensorBoard.

        A row shows an image, its translation, the translation back and, for domains of the same
        channels, the identity mapping.

        Args:
            state: State after an update, or before the first one.
            batch: {a, b}, [B, H, W, C], the images of that update.
        """
        if not self._is_writer:
            return
        translator = self._translator(state)
        self._write_grids(translator, self._images(translator.step), "samples")
        if self._batch_images:
            first = {domain: images[: self._batch_images] for domain, images in batch.items()}
            self._write_grids(translator, first, "samples/batch")

    def _write_grids(self, translator: Translator, images: Batch, folder: str) -> None:
        same_channels = images["a"].shape[-1] == images["b"].shape[-1]
        for name, forward in (("a_to_b", translator), ("b_to_a", translator.reverse)):
            rows = []
            for image in images[name[0]]:
                rows.append([image, *forward.round_trip(image)])
                if same_channels:
                    rows[-1].append(forward.reverse(image))
            grid = image_io.strip(rows)
            path = self._workdir / folder / f"{translator.step:08d}_{name}.png"
            image_io.make_folder(path.parent)
            image_io.write_image(path, grid)
            self._writer.write_images(translator.step, {f"{folder}/{name}": grid[None]})

    def evaluate(self, state: TrainState) -> results.Results | None:
        """Compute the metrics of the test sets, write them and return them.

        They also go to `evaluation/STEP.json`. None where no metrics are computed: without an
        evaluation, and in processes other than 0.
        """
        if self._evaluation is None or not self._is_writer:
            return None
        translator = self._translator(state)
        values = self._evaluation(translator)
        self._writer.write_scalars(translator.step, values)
        results.write_results(self._workdir, translator.step, values)
        return values

    def end(self, state: TrainState) -> None:
        """Print a table of the metrics at start and end, and the paths of the last samples.

        Raises:
            UserError: A metric since the last `flush` is not finite.
        """
        self._collect()
        if not self._is_writer:
            return
        if self._evaluation is not None:
            stored = results.read_results(self._workdir)
            steps = {"start": 0, "end": int(state.step)}
            columns = {title: stored[step] for title, step in steps.items() if step in stored}
            identity = self._evaluation.unchanged()
            print(results.table(columns | ({"identity": identity} if identity else {})))
        for path in sorted((self._workdir / "samples").glob("*.png"))[-2:]:
            print(f"sample: {path}")

    def close(self) -> None:
        """Close the event files, and a profile that the run ended in."""
        if self._is_profiling:
            self._stop_profile()
        self._writer.flush()
        self._writer.close()

    def _stop_profile(self) -> None:
        jax.profiler.stop_trace()
        self._is_profiling = False

    def _speed(self, step: int, waited: float) -> dict[str, float]:
        """Log the progress and return the speed since the last call; the first one compiles."""
        metrics = {}
        now, line = time.monotonic(), f"step {step} of {self._num_steps}"
        if self._last_flush is not None:
            last_step, last_time, last_waited = self._last_flush
            seconds = now - last_time
            speed = (step - last_step) / seconds
            left = datetime.timedelta(seconds=round((self._num_steps - step) / speed))
            line += f", {speed:.3g} steps/s, {left} left"
            metrics = {
                "steps_per_second": speed,
                "input_wait": (waited - last_waited) / seconds,
            }
        self._last_flush = step, now, waited
        logging.info(line)
        return metrics


def _by_update(pending: list[tuple[int, Metrics]]) -> list[tuple[int, dict[str, float]]]:
    """Return (step, metrics) of each update, from metrics of several updates at a time."""
    rows = []
    for step, metrics in pending:
        columns = {name: np.atleast_1d(values) for name, values in metrics.items()}
        count = len(next(iter(columns.values())))
        for i in range(count):
            row = {name: float(values[i]) for name, values in columns.items()}
            rows.append((step - count + 1 + i, row))
    return rows
