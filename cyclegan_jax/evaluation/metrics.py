"""What can be measured of translations: evaluators, each a function from images to figures."""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from cyclegan_jax import data
from cyclegan_jax.data import shapes
from cyclegan_jax.evaluation import distances, segmentation, truth
from cyclegan_jax.evaluation.features import Extractor, kept_features
from cyclegan_jax.evaluation.image_sets import REAL, Images, Sets, make_sets, real_sets
from cyclegan_jax.evaluation.inception_weights import cache_folder, fetch_weights
from cyclegan_jax.evaluation.palettes import PALETTES, Palette, find_palette
from cyclegan_jax.evaluation.results import Figures
from cyclegan_jax.evaluation.similarity import similarity
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import to_8_bits

# What `--metrics` and `config.evaluation.metrics` choose from.
METRICS = ("truth", "cycle", "identity", "paired", "segmentation", "fid", "kid")

# Last names of figures, and whether more is better. Those of classes end in _iou and _accuracy.
HIGHER_IS_BETTER = {
    "pixel_accuracy": True,
    "class_accuracy": True,
    "mean_iou": True,
    "psnr": True,
    "ssim": True,
    "l1": False,
    "fid": False,
    "kid": False,
}

_DIRECTIONS = (("a", "b"), ("b", "a"))


class Evaluator(NamedTuple):
    """A measurement.

    Attributes:
        needs: the kinds of made images that it looks at (see `translations.MADE`).
        score: {real_a, real_b, and what it needs} to figures by name.
    """

    needs: tuple[str, ...]
    score: Callable[[Sets], Figures]


class Evaluation:
    """The test sets of a run, and the evaluators that `config.evaluation` asks for.

    Without metrics in it, those that apply and need nothing else: the truth of the built-in set;
    else cycles and identities. Pairs must be asked for: names may be alike by chance.

    Attributes:
        real: {real_a, real_b}, the test sets.
        needs: the kinds of made images that some evaluator looks at.
    """

    def __init__(
        self, config: Any, tests: tuple[data.Source | None, data.Source | None] | None = None
    ):
        """Loads all that figures need but the model.

        Args:
            config: the configuration of the run.
            tests: Test sources of A and B; opened here if None.

        Raises:
            UserError: there are no test images, a metric does not exist or does not apply, or
                weights or a palette cannot be had.
        """
        check_metrics(config.evaluation.metrics)
        if config.evaluation.best:
            check_best(config.evaluation.best)
        tests = tests or data.open_split(config.data, "test")
        self.real = real_sets(config, tests)
        self._evaluators = _build(config, self.real, tests)
        self.needs = {kind for one in self._evaluators.values() for kind in one.needs}

    def __call__(self, translator: Translator) -> Figures:
        """The figures of a model, given from A to B."""
        return self.score(make_sets(translator, self.real, self.needs))

    def score(self, sets: Sets) -> Figures:
        """The figures of images that were made before: the real sets and all of `needs`."""
        return {k: v for one in self._evaluators.values() for k, v in one.score(sets).items()}

    def identity(self) -> Figures:
        """What generators would score against a truth that return what they are given."""
        if "truth" not in self._evaluators:
            return {}
        fakes = {"fake_b": self.real["real_a"], "fake_a": self.real["real_b"]}
        return self._evaluators["truth"].score(self.real | fakes)


def _build(config: Any, real: Sets, tests: Any) -> dict[str, Evaluator]:
    wanted = config.evaluation
    chosen = split_metrics(wanted.metrics) or _default_metrics(config)
    made: dict[str, Evaluator] = {}
    if "truth" in chosen:
        made["truth"] = _truth(config, real, tests)
    if "cycle" in chosen:
        made["cycle"] = Evaluator(("cycled_a", "cycled_b"), _likeness("cycled", "cycle"))
    if "identity" in chosen:
        if config.data.channels_a != config.data.channels_b:
            raise UserError("metric identity needs domains of as many channels")
        made["identity"] = Evaluator(("identity_a", "identity_b"), _likeness("identity"))
    if "paired" in chosen:
        made["paired"] = Evaluator(("fake_a", "fake_b"), _paired)
        if not any(_pairs(real["real_a"].names, real["real_b"].names)):
            raise UserError("metric paired: no test images of A and B share a name")
    if "segmentation" in chosen:
        choices = {"a": wanted.palette_a, "b": wanted.palette_b}
        made["segmentation"] = _segmentation(real, {k: v for k, v in choices.items() if v})
    inner = [name for name in ("fid", "kid") if name in chosen]
    if inner:
        for domain in ("a", "b"):
            if len(real[f"real_{domain}"].names) < 2:
                raise UserError(f"metric {inner[0]}: domain {domain.upper()} has a single image")
        given = wanted.inception
        weights = Path(given).expanduser() if given else fetch_weights(cache_folder())
        made["+".join(inner)] = _inception(inner, Extractor(weights), real)
    return made


def split_metrics(text: str) -> list[str]:
    """Names with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def check_metrics(text: str) -> None:
    """Raises UserError for names that are not in `METRICS`."""
    for name in split_metrics(text):
        if name not in METRICS:
            raise UserError(f"metric {name!r}; choose from {', '.join(METRICS)}")


def _default_metrics(config: Any) -> list[str]:
    if _has_truth(config):
        return ["truth"]
    same = config.data.channels_a == config.data.channels_b
    return ["cycle", *["identity"] * same]


def _has_truth(config: Any) -> bool:
    d = config.data
    return (d.source, d.channels_a, d.channels_b, d.bit_depth) == ("shapes", 3, 3, 8)


def _truth(config: Any, real: Sets, tests: Any) -> Evaluator:
    if not _has_truth(config):
        raise UserError(
            "metric truth needs images whose true translation is known: data.source shapes with "
            "3 channels of 8 bits"
        )
    test_a, test_b = cast(tuple[shapes.ShapesSource, shapes.ShapesSource], tests)
    if not np.array_equal(real["real_a"].images[0], test_a[0]):
        raise UserError(
            "metric truth needs images as they are drawn: data.transform none, or data.crop_size "
            "as data.shapes_size"
        )

    def score(sets: Sets) -> Figures:
        fake_b, fake_a = (np.stack(sets[kind].images) for kind in ("fake_b", "fake_a"))
        return truth.shapes_figures(fake_b, fake_a, test_a, test_b)

    return Evaluator(("fake_b", "fake_a"), score)


def _likeness(kind: str, title: str = "") -> Callable[[Sets], Figures]:
    """How like what comes back, or should have stayed as it was, is to the test images."""

    def score(sets: Sets) -> Figures:
        made = {}
        for domain in ("a", "b"):
            pairs = zip(sets[f"{kind}_{domain}"].images, sets[f"real_{domain}"].images, strict=True)
            for name, value in similarity(pairs).items():
                made[f"{title or kind}_{domain}/{name}"] = value
        return made

    return score


def _pair_name(name: str) -> str:
    """Of 1_A and 1_B, as published pairs are called, what they share."""
    return re.sub(r"_[abAB]$", "", name)


def _pairs(sources: Sequence[str], targets: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Positions of images that share a name."""
    places = {_pair_name(name): i for i, name in enumerate(targets)}
    for i, name in enumerate(sources):
        if (j := places.get(_pair_name(name))) is not None:
            yield i, j


def _fakes_and_truths(
    fakes: Images, reals: Images, what: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for i, j in _pairs(fakes.names, reals.names):
        fake, real = fakes.images[i], reals.images[j]
        if fake.shape != real.shape:
            raise UserError(
                f"metric {what}: {fakes.names[i]} is {list(fake.shape)}, but its pair in the other "
                f"domain is {list(real.shape)}; choose a data.transform that makes them alike"
            )
        yield fake, real


def _paired(sets: Sets) -> Figures:
    made = {}
    for source, target in _DIRECTIONS:
        pairs = _fakes_and_truths(sets[f"fake_{target}"], sets[f"real_{target}"], "paired")
        for name, value in similarity(pairs).items():
            made[f"{source}_to_{target}/{name}"] = value
    return made


def _segmentation(real: Sets, choices: dict[str, str]) -> Evaluator:
    if not choices:
        raise UserError(
            "metric segmentation needs palette_a or palette_b, for the domain that is label maps: "
            f"{', '.join(BUILT_IN | PALETTES)}, or a file"
        )
    palettes = {d: BUILT_IN.get(choice) or find_palette(choice) for d, choice in choices.items()}
    for domain in palettes:
        if real[f"real_{domain}"].images[0].shape[-1] != 3:
            raise UserError(f"metric segmentation: domain {domain.upper()} has no colours")
    if not any(_pairs(real["real_a"].names, real["real_b"].names)):
        raise UserError("metric segmentation: no test images of A and B share a name")

    def score(sets: Sets) -> Figures:
        made: Figures = {}
        for target, palette in palettes.items():
            source = "a" if target == "b" else "b"
            pairs = _fakes_and_truths(
                sets[f"fake_{target}"], sets[f"real_{target}"], "segmentation"
            )
            confusion = sum(
                segmentation.confusion_of(to_8_bits(fake)[None], to_8_bits(label)[None], palette)
                for fake, label in pairs
            )
            scores = segmentation.published_scores(np.asarray(confusion), list(palette.classes))
            made |= {f"{source}_to_{target}/{name}": value for name, value in scores.items()}
        return made

    return Evaluator(tuple(f"fake_{domain}" for domain in palettes), score)


BUILT_IN = {f"shapes_{domain}": Palette(colours) for domain, colours in shapes.PALETTES.items()}


def _inception(metrics: Collection[str], extractor: Extractor, real: Sets) -> Evaluator:
    """Distances between the translations and the test images of the domain."""
    folder = cache_folder() / "features"
    expected = {kind: kept_features(extractor, real[kind].images, folder) for kind in REAL}

    def score(sets: Sets) -> Figures:
        made: Figures = {}
        for source, target in _DIRECTIONS:
            found = np.concatenate(list(extractor(sets[f"fake_{target}"].images)))
            truths = expected[f"real_{target}"]
            direction = f"{source}_to_{target}"
            if "fid" in metrics:
                made[f"{direction}/fid"] = distances.frechet_distance(
                    distances.Statistics([found]), distances.Statistics([truths])
                )
            if "kid" in metrics:
                kernel = distances.kernel_distance(found, truths)
                made[f"{direction}/kid"] = kernel.mean
                made[f"{direction}/kid_deviation"] = kernel.deviation
        return made

    return Evaluator(("fake_b", "fake_a"), score)


def check_best(name: str) -> None:
    """Raises UserError for what cannot be the name of a figure to choose checkpoints by."""
    if not name.rsplit("/", 1)[-1].endswith(("_iou", "_accuracy", *HIGHER_IS_BETTER)):
        raise UserError(
            f"config.evaluation.best is {name!r}; choose one of {', '.join(HIGHER_IS_BETTER)} (the "
            "mean of both directions), or a figure such as a_to_b/fid"
        )


def best_figure(name: str, given: Figures) -> float:
    """The figure of this name, or the mean of those in all directions whose last name it is.

    Raises:
        UserError: there is none.
    """
    values = [v for key, v in given.items() if key == name or key.rsplit("/", 1)[-1] == name]
    if not values:
        raise UserError(
            f"config.evaluation.best is {name!r}, but the figures are {', '.join(given)}; see "
            "evaluation.metrics"
        )
    return float(np.mean(values))


def is_better(name: str, one: float, other: float) -> bool:
    """Whether the first of two figures of this name is better than the second."""
    higher = HIGHER_IS_BETTER.get(name.rsplit("/", 1)[-1], True)
    return one > other if higher else one < other
