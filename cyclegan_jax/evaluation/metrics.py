"""Registry of metrics, and the evaluation that computes a choice of them.

A metric is built once per evaluation, when everything that it needs but the translations is loaded
and checked, and then computed for each checkpoint.
"""

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cyclegan_jax.evaluation import segmentation as labels
from cyclegan_jax.evaluation.distances import frechet_distance, kernel_distance
from cyclegan_jax.evaluation.features import Extractor, Features
from cyclegan_jax.evaluation.image_sets import TRANSLATIONS, ImageSets, make_sets
from cyclegan_jax.evaluation.inception_weights import cache_folder, fetch_weights
from cyclegan_jax.evaluation.pairing import match_names
from cyclegan_jax.evaluation.palettes import PALETTES, find_palette
from cyclegan_jax.evaluation.results import Results
from cyclegan_jax.evaluation.similarity import similarity
from cyclegan_jax.evaluation.truth import is_labelled, truth_results
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import to_8_bits
from cyclegan_jax.utils.registry import lookup


@dataclass(frozen=True)
class MetricContext:
    """Everything that metrics are built from.

    Attributes:
        real: {real_a, real_b}: The test sets after the test transform.
        test_a: Source of the test images of domain A.
        test_b: Source of the test images of domain B.
        palette_a: Palette of label maps of domain A, by name or file; empty if it has none.
        palette_b: Likewise of domain B.
        inception: File of the Inception weights; empty for the published ones.
    """

    real: ImageSets
    test_a: Any
    test_b: Any
    palette_a: str = ""
    palette_b: str = ""
    inception: str = ""

    @functools.cached_property
    def features(self) -> Features:
        """Inception features, shared by all metrics; UserError if there are no weights."""
        path = Path(self.inception).expanduser() if self.inception else None
        extractor = Extractor(path or fetch_weights(cache_folder()))
        return Features(extractor, cache_folder() / "features")


class Metric(NamedTuple):
    """A measurement of translations.

    Attributes:
        needs: Kinds of translations (see `image_sets.TRANSLATIONS`) that it is computed from.
        compute: Function from {real_a, real_b, and `needs`} to results. Names that differ only
            before the last "/" are the same quantity in several directions or domains.
        higher_is_better: Whether higher values are better, by the part of a result's name after the
            last "/"; results without an entry cannot be used to choose the best checkpoint.
    """

    needs: tuple[str, ...]
    compute: Callable[[ImageSets], Results]
    higher_is_better: Mapping[str, bool] = {}


# Raises UserError if the metric is not applicable.
MetricFactory = Callable[[MetricContext], Metric]

_FAKES = ("fake_b", "fake_a")
_DIRECTIONS = (("a", "b"), ("b", "a"))
_SIMILARITY = {"l1": False, "psnr": True, "ssim": True}


def truth(context: MetricContext) -> Metric:
    """Classes of pixels, and PSNR, against the known correct translations."""
    sources = context.test_a, context.test_b
    if not all(map(is_labelled, sources)):
        raise UserError(
            "metric truth: expected a dataset with known labels (data.source=shapes), got another"
        )
    for images, source in zip(context.real.values(), sources, strict=True):
        if len(images.names) != len(source) or not np.array_equal(images.images[0], source[0]):
            raise UserError(
                "metric truth: expected test images as drawn, got transformed ones; set "
                "data.transform=none, data.bit_depth=8 and 3 channels"
            )

    def compute(sets: ImageSets) -> Results:
        fake_b, fake_a = (np.stack(sets[kind].images) for kind in _FAKES)
        return truth_results(fake_b, fake_a, *sources)

    names = labels.score_names({name: None for source in sources for name in source.palette})
    return Metric(_FAKES, compute, dict.fromkeys([*names, "psnr"], True))


def cycle(context: MetricContext) -> Metric:
    """Similarity of test images to themselves after translation there and back."""
    del context
    return _unchanged("cycled", "cycle")


def identity(context: MetricContext) -> Metric:
    """Similarity of test images to themselves after translation to their own domain."""
    channels = [images.images[0].shape[-1] for images in context.real.values()]
    if channels[0] != channels[1]:
        raise UserError(
            f"metric identity: expected domains of the same channels, got {channels[0]} in A and "
            f"{channels[1]} in B"
        )
    return _unchanged("identity", "identity")


def _unchanged(kind: str, name: str) -> Metric:
    """Build the metric of translations that should equal the test images."""

    def compute(sets: ImageSets) -> Results:
        results: Results = {}
        for domain in "ab":
            images, originals = sets[f"{kind}_{domain}"].images, sets[f"real_{domain}"].images
            for key, value in similarity(zip(images, originals, strict=True)).items():
                results[f"{name}_{domain}/{key}"] = value
        return results

    return Metric((f"{kind}_a", f"{kind}_b"), compute, _SIMILARITY)


def paired(context: MetricContext) -> Metric:
    """Similarity of translations to the test image of the same name in the other domain."""
    pairs = _pairs(context, "paired")

    def compute(sets: ImageSets) -> Results:
        results: Results = {}
        for source, target in _DIRECTIONS:
            fakes, reals = sets[f"fake_{target}"].images, sets[f"real_{target}"].images
            for key, value in similarity((fakes[i], reals[j]) for i, j in pairs[source]).items():
                results[f"{source}_to_{target}/{key}"] = value
        return results

    return Metric(_FAKES, compute, _SIMILARITY)


def _pairs(context: MetricContext, metric: str) -> dict[str, list[tuple[int, int]]]:
    """Return {domain: positions in it and in the other domain} of pairs, which have equal sizes."""
    a, b = context.real["real_a"], context.real["real_b"]
    pairs = match_names(a, b, metric)
    for i, j in pairs:
        size_a, size_b = a.images[i].shape[:2], b.images[j].shape[:2]
        if size_a != size_b:
            raise UserError(
                f"metric {metric}: expected pairs of the same size, got {a.sources[i]} "
                f"{list(size_a)} and {b.sources[j]} {list(size_b)}; choose another data.transform"
            )
    return {"a": pairs, "b": sorted((j, i) for i, j in pairs)}


def segmentation(context: MetricContext) -> Metric:
    """Classes of pixels in translations to label maps, against the map of the same name."""
    choices = {"a": context.palette_a, "b": context.palette_b}
    palettes = {domain: find_palette(choice) for domain, choice in choices.items() if choice}
    if not palettes:
        raise UserError(
            "metric segmentation: expected palette_a or palette_b for the domain of label maps: "
            f"{', '.join(PALETTES)}, or a file"
        )
    for domain in palettes:
        channels = context.real[f"real_{domain}"].images[0].shape[-1]
        if channels != 3:
            raise UserError(
                f"metric segmentation: expected label maps in colour, got {channels} channels in "
                f"domain {domain.upper()}"
            )
    pairs = _pairs(context, "segmentation")

    def compute(sets: ImageSets) -> Results:
        results: Results = {}
        for target, palette in palettes.items():
            source = "a" if target == "b" else "b"
            fakes, reals = sets[f"fake_{target}"].images, sets[f"real_{target}"].images
            confusion = sum(
                labels.confusion_of(to_8_bits(fakes[i])[None], to_8_bits(reals[j])[None], palette)
                for i, j in pairs[source]
            )
            scores = labels.published_scores(np.asarray(confusion), list(palette.classes))
            results |= {f"{source}_to_{target}/{key}": value for key, value in scores.items()}
        return results

    needs = tuple(f"fake_{domain}" for domain in palettes)
    classes = {name: None for palette in palettes.values() for name in palette.classes}
    return Metric(needs, compute, dict.fromkeys(labels.published_score_names(classes), True))


def fid(context: MetricContext) -> Metric:
    """Frechet inception distance of translations to the test images of their domain."""

    def distance(fake: np.ndarray, real: np.ndarray) -> Results:
        return {"fid": frechet_distance(fake, real)}

    return _distance(context, "fid", distance)


def kid(context: MetricContext) -> Metric:
    """Kernel inception distance of translations to the test images of their domain."""

    def distance(fake: np.ndarray, real: np.ndarray) -> Results:
        mean, deviation = kernel_distance(fake, real)
        return {"kid": mean, "kid_deviation": deviation}

    return _distance(context, "kid", distance)


def _distance(
    context: MetricContext, name: str, distance: Callable[[np.ndarray, np.ndarray], Results]
) -> Metric:
    """Build the metric of a distance between the features of two sets; lower is better."""
    for domain in "ab":
        count = len(context.real[f"real_{domain}"].names)
        if count < 2:
            raise UserError(
                f"metric {name}: expected at least 2 test images of domain {domain.upper()}, got "
                f"{count}"
            )
    features = context.features
    real = {domain: features.of_test_set(context.real[f"real_{domain}"]) for domain in "ab"}

    def compute(sets: ImageSets) -> Results:
        results: Results = {}
        for source, target in _DIRECTIONS:
            values = distance(features.of(sets[f"fake_{target}"]), real[target])
            results |= {f"{source}_to_{target}/{key}": value for key, value in values.items()}
        return results

    return Metric(_FAKES, compute, {name: False})


METRICS: dict[str, MetricFactory] = {
    "truth": truth,
    "cycle": cycle,
    "identity": identity,
    "paired": paired,
    "segmentation": segmentation,
    "fid": fid,
    "kid": kid,
}
# The first of these groups that is applicable is computed by default. None needs further files or
# assumes that equal names mean equal scenes.
_DEFAULTS = (("truth",), ("cycle", "identity"), ("cycle",))


def check_metrics(names: Collection[str]) -> None:
    """Raise UserError unless all names are in `METRICS` or of the form package.module:attribute."""
    for name in names:
        lookup("config.evaluation.metrics", name, METRICS)


class Evaluation:
    """Metrics of a model on test sets.

    Args:
        names: Keys of `METRICS` or `package.module:attribute` of a `MetricFactory`. Default:
            `truth` where the labels are known, else `cycle`, and `identity` where it is applicable.
        context: See `MetricContext`.

    Attributes:
        real: {real_a, real_b}: The test sets.
        metrics: {name: metric}.
        needs: Kinds of translations that some metric is computed from.

    Raises:
        UserError: A metric is unknown or not applicable, or a file that it needs cannot be read.
    """

    def __init__(self, names: Collection[str], context: MetricContext):
        self.real = context.real
        self.metrics = _build(names, context) if names else _build_default(context)
        needs = {kind for metric in self.metrics.values() for kind in metric.needs}
        self.needs = [kind for kind in TRANSLATIONS if kind in needs]

    def __call__(self, translator: Translator) -> Results:
        """Compute the metrics of a model, given as its translator from A to B."""
        return self.compute(make_sets(translator, self.real, self.needs))

    def compute(self, sets: ImageSets) -> Results:
        """Compute the metrics of translations.

        Args:
            sets: The real sets, and all of `needs`.
        """
        return {k: v for metric in self.metrics.values() for k, v in metric.compute(sets).items()}

    def unchanged(self) -> Results:
        """Compute the metric `truth` of generators that return their input; {} without it."""
        if "truth" not in self.metrics:
            return {}
        fakes = {"fake_b": self.real["real_a"], "fake_a": self.real["real_b"]}
        return self.metrics["truth"].compute(self.real | fakes)

    def higher_is_better(self, name: str) -> bool:
        """Return whether higher values of a result are better.

        Args:
            name: Name of a result, or its part after the last "/".

        Raises:
            UserError: No metric has it, neither is better, or metrics contradict each other.
        """
        entries = [item for m in self.metrics.values() for item in m.higher_is_better.items()]
        choices = {key: higher for key, higher in entries if (key, not higher) not in entries}
        key = name.rpartition("/")[2]
        if key not in choices:
            raise UserError(
                f"config.evaluation.best: expected one of {', '.join(choices)}, or one direction "
                f"as a_to_b/NAME, got {name!r}; evaluation.metrics are {', '.join(self.metrics)}"
            )
        return choices[key]


def _build(names: Collection[str], context: MetricContext) -> dict[str, Metric]:
    metrics = {}
    # Results are in the order of the registry, whatever the order of the names.
    for name in dict.fromkeys([*(name for name in METRICS if name in names), *names]):
        metric = lookup("config.evaluation.metrics", name, METRICS)(context)
        if not isinstance(metric, Metric) or not set(metric.needs) <= set(TRANSLATIONS):
            raise UserError(
                f"config.evaluation.metrics={name}: expected a function that returns a Metric "
                f"whose needs are of {', '.join(TRANSLATIONS)}, got {metric!r}"
            )
        metrics[name] = metric
    return metrics


def _build_default(context: MetricContext) -> dict[str, Metric]:
    for group in _DEFAULTS[:-1]:
        try:
            return _build(group, context)
        except UserError:
            continue
    return _build(_DEFAULTS[-1], context)
