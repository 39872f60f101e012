"""What a run shows of itself: metrics, samples and figures."""

import datetime
import time
from pathlib import Path

import jax
import numpy as np
from absl import logging
from clu import metric_writers
from ml_collections import ConfigDict

from cyclegan_jax import config as config_lib
from cyclegan_jax import data
from cyclegan_jax.build import build_networks
from cyclegan_jax.evaluation import results
from cyclegan_jax.evaluation.metrics import Evaluation
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.losses import Metrics
from cyclegan_jax.state import TrainState, count_parameters
from cyclegan_jax.step import Batch
from cyclegan_jax.utils import image_io
from cyclegan_jax.utils.errors import UserError


class Report:
    """Writes to the log, TensorBoard and the work directory; only process 0 does."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        num_steps: int,
        evaluation: Evaluation | None,
        sources: data.Sources,
    ):
        """Loads the images that samples are made of.

        Args:
            config: see `configs/default.py`.
            workdir: of the run.
            num_steps: updates in the whole run.
            evaluation: what figures are computed with, where there are to be any.
            sources: Sources of the run.
        """
        self._workdir = workdir
        self._evaluation = evaluation
        self._config = config
        self._is_writer = jax.process_index() == 0
        self._writer = metric_writers.create_default_writer(
            str(workdir), just_logging=not self._is_writer, asynchronous=False
        )
        self._num_steps = num_steps
        self._last_flush: tuple[int, float, float] | None = None
        self._profiling = False
        self._pending: list[tuple[int, Metrics]] = []
        self._shown = {}
        for domain in ("a", "b"):
            source = getattr(sources, f"test_{domain}")
            if source is None:
                source = getattr(sources, f"train_{domain}")
                logging.info(
                    "%s has no test images: its samples show training images", domain.upper()
                )
            self._shown[domain] = data.test_images(
                source,
                data.build_transform(config.data, domain),
                config.sample_images,
                skip_unreadable=config.data.skip_unreadable,
            )

    def start(self, state: TrainState) -> None:
        """Says what is trained; in a new run also what the untrained networks score."""
        config = config_lib.flatten(self._config)
        self._writer.write_hparams({name: str(value) for name, value in config.items()})
        for name, params in state.params.items():
            logging.info("%s has %s parameters", name, f"{count_parameters(params):,}")
        if int(state.step) == 0:
            self.evaluate(state)

    def add(self, step: int, metrics: Metrics) -> None:
        """Takes an update's metrics, which stay on the device until `flush`.

        Args:
            step: the number of updates done.
            metrics: scalars, or [n] of the last n updates.
        """
        self._pending.append((step, metrics))
        self._profile(step, next(iter(metrics.values())).size)

    def flush(self, waited: float = 0.0) -> None:
        """Writes the means since the last time, with the speed and the time left.

        Args:
            waited: seconds so far in which the devices waited for images.

        Raises:
            UserError: where a metric is not finite, naming the first such step and metric.
        """
        if not self._pending:
            return
        last_step = self._pending[-1][0]
        fetched = _single(jax.device_get(self._pending))
        self._pending.clear()
        for step, values in fetched:
            for name, value in values.items():
                if not np.isfinite(value):
                    raise UserError(
                        f"{name} is {value} at step {step}: the run stops, its checkpoints are "
                        "from before; a lower optimizer.learning_rate or float32 may help"
                    )
        rows = [values for _, values in fetched]
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        # A rate that changed in between is reported as it now is.
        means["learning_rate"] = float(rows[-1]["learning_rate"])
        self._writer.write_scalars(last_step, means | self._speed(last_step, waited))

    def samples(self, state: TrainState, batch: Batch) -> None:
        """Saves strips (real, translated, back, identity) of both directions as PNG.

        Args:
            state: after an update.
            batch: the images of that update, for strips of their own where they are asked for.
        """
        if not self._is_writer:
            return
        translator = Translator.of(
            build_networks(self._config), state.inference_params, int(state.step)
        )
        self._strips(translator, self._shown, "samples")
        if self._config.sample_batch:
            first = {domain: batch[domain][: self._config.sample_images] for domain in ("a", "b")}
            self._strips(translator, first, "samples/batch")

    def _strips(self, translator: Translator, shown: Batch, folder: str) -> None:
        for name, there in (("a_to_b", translator), ("b_to_a", translator.reverse)):
            rows = []
            for image in shown[name[0]]:
                rows.append([image, *there.round_trip(image)])
                if shown["a"].shape[-1] == shown["b"].shape[-1]:
                    rows[-1].append(there.reverse(image))
            grid = image_io.strip(rows)
            path = self._workdir / folder / f"{translator.step:08d}_{name}.png"
            image_io.make_folder(path.parent)
            image_io.write_image(path, grid)
            self._writer.write_images(translator.step, {f"{folder}/{name}": grid[None]})

    def evaluate(self, state: TrainState) -> float | None:
        """Figures of what is made of the test sets, into `evaluation/STEP.json` as well.

        Returns:
            The one that `config.evaluation.best` names, where it names one.

        Raises:
            UserError: there is none of that name.
        """
        if self._evaluation is None or not self._is_writer:
            return None
        step = int(state.step)
        found = self._evaluation(
            Translator.of(build_networks(self._config), state.inference_params, step)
        )
        self._writer.write_scalars(step, found)
        results.write_results(self._workdir, step, found)
        best = self._config.evaluation.best
        return results.value_of(best, found) if best else None

    def end(self, state: TrainState) -> None:
        """Prints what the run has come to, and where its last samples are."""
        if not self._is_writer:
            return
        if self._evaluation is not None:
            kept = results.read_results(self._workdir)
            steps = {"start": 0, "end": int(state.step)}
            columns = {title: kept[step] for title, step in steps.items() if step in kept}
            identity = self._evaluation.unchanged()
            print(results.table(columns | ({"identity": identity} if identity else {})))
        for path in sorted((self._workdir / "samples").glob("*.png"))[-2:]:
            print(f"sample: {path}")

    def close(self) -> None:
        """Flushes and closes TensorBoard's files, and a profile that the run ended in."""
        if self._profiling:
            self._stop_profile()
        self._writer.flush()
        self._writer.close()

    def _speed(self, step: int, waited: float) -> dict[str, float]:
        """Says how far the run is, from the second time on also how fast; compiling would count."""
        speeds = {}
        now, line = time.monotonic(), f"step {step} of {self._num_steps}"
        if self._last_flush is not None:
            last_step, last_time, last_waited = self._last_flush
            speed = (step - last_step) / (now - last_time)
            left = datetime.timedelta(seconds=round((self._num_steps - step) / speed))
            line += f", {speed:.3g} steps/s, {left} left"
            speeds["steps_per_second"] = speed
            speeds["input_wait"] = (waited - last_waited) / (now - last_time)
        self._last_flush = step, now, waited
        logging.info(line)
        return speeds

    def _profile(self, step: int, updates: int) -> None:
        """Starts and stops the profiler as configured; the last of `step` updates are `updates`."""
        first, count = self._config.profile_at_step, self._config.profile_steps
        if step - updates < first <= step:
            jax.profiler.start_trace(str(self._workdir))
            self._profiling = True
        elif self._profiling and step >= first + count:
            jax.block_until_ready(self._pending[-1][1])
            self._stop_profile()

    def _stop_profile(self) -> None:
        jax.profiler.stop_trace()
        self._profiling = False


def _single(pending: list[tuple[int, Metrics]]) -> list[tuple[int, dict[str, float]]]:
    """(step, metrics) of every update, where some came several at a time."""
    found = []
    for last, metrics in pending:
        columns = {name: np.atleast_1d(values) for name, values in metrics.items()}
        count = len(next(iter(columns.values())))
        for i in range(count):
            row = {name: float(values[i]) for name, values in columns.items()}
            found.append((last - count + 1 + i, row))
    return found
