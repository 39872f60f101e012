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
    sources = test_sources or data.open_split(config.data, "test")
    context = MetricContext(
        real={
            f"real_{domain}": _load(config.data, domain, source)
            for domain, source in zip("ab", sources, strict=True)
        },
        test_a=sources[0],
        test_b=sources[1],
        palette_a=settings.palette_a,
        palette_b=settings.palette_b,
        inception=settings.inception,
    )
    evaluation = Evaluation(names, context)
    if settings.best:
        evaluation.higher_is_better(settings.best)
    return evaluation


def _load(settings: Any, domain: str, source: data.Source | None) -> ImageSet:
    if source is None:
        message = f"domain {domain.upper()}: expected test images to compute metrics from, got none"
        if settings.source != "folder":
            raise UserError(f"{message}; data.source={settings.source} has none")
        folder = data.DIRECTIONS[settings.direction]["ab".index(domain)]
        raise UserError(
            f"{message}; set data.test_{folder}, or add test{folder.upper()} to data.dir"
        )
    transform = data.build_transform(settings, domain)
    return real_set(source, transform, skip_unreadable=settings.skip_unreadable)
