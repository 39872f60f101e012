"""Turn a configuration into the evaluation that it describes."""

from typing import Any

from cyclegan_jax import data
from cyclegan_jax.evaluation.image_sets import ImageSet, real_set
from cyclegan_jax.evaluation.metrics import Evaluation, MetricContext, check_metrics
from cyclegan_jax.utils.errors import UserError


def build_evaluation(
    config: Any, test_sources: tuple[data.Source | None, data.Source | None] | None = None
) -> Evaluation:
    """Load the test sets and build the metrics that `evaluation.metrics` names.

    Args:
        config: See `default_config.py`.
        test_sources: Test sources of A and B if they are open already.

    Raises:
        UserError: A domain has no test images, a metric is unknown or not applicable, a file that
            a metric needs cannot be read, or no metric computes `evaluation.best`.
    """
    settings = config.evaluation
    names = [name.strip() for name in settings.metrics.split(",") if name.strip()]
    check_metrics(names)
    sources = test_sources or data.load_sources(config.data, "test")
    for domain, source in zip("ab", sources, strict=True):
        if source is None:
            raise UserError(_missing(config.data, domain))
    test_a, test_b = sources
    context = MetricContext(
        real={f"real_{d}": _load(config, s, d) for d, s in (("a", test_a), ("b", test_b))},
        test_a=test_a,
        test_b=test_b,
        palette_a=settings.palette_a,
        palette_b=settings.palette_b,
        inception=settings.inception,
    )
    evaluation = Evaluation(names, context)
    if settings.best:
        evaluation.higher_is_better(settings.best)
    return evaluation


def _load(config: Any, source: Any, domain: str) -> ImageSet:
    return real_set(source, data.transformed_images(config, source, domain=domain))


def _missing(settings: Any, domain: str) -> str:
    message = f"domain {domain.upper()}: expected test images to compute metrics from, got none"
    if settings.source != "folder":
        return f"{message}; data.source={settings.source} has none"
    if settings.direction == "b_to_a":  # folders keep their letters
        domain = "b" if domain == "a" else "a"
    return f"{message}; set data.test_{domain}, or add test{domain.upper()} to data.dir"
