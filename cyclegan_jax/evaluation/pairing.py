"""Test images of A and B that show the same scene, matched by name."""

import re
from collections.abc import Sequence

from absl import logging

from cyclegan_jax.evaluation.image_sets import ImageSet
from cyclegan_jax.utils.errors import UserError


def match_names(a: ImageSet, b: ImageSet, metric: str) -> list[tuple[int, int]]:
    """Pair images of equal names; if there are none, after removing `_A` or `_B` from their ends.

    Args:
        a: Test images of domain A.
        b: Test images of domain B.
        metric: Name of the metric, for messages.

    Returns:
        Positions in both sets, in the order of `a`.

    Raises:
        UserError: No names match, or two images of a domain share a name.
    """
    context = f"metric {metric}"
    positions_a, positions_b = a.index(context), b.index(context)
    if positions_a.keys().isdisjoint(positions_b):
        positions_a = a.index(context, _without_domain(a.names))
        positions_b = b.index(context, _without_domain(b.names))
    pairs = [(i, positions_b[name]) for name, i in positions_a.items() if name in positions_b]
    if not pairs:
        raise UserError(
            f"{context}: expected test images of A and B with equal names, got names such as "
            f"{a.names[0]} and {b.names[0]}"
        )
    if len(pairs) < max(len(a.names), len(b.names)):
        logging.warning(
            "metric %s: %d pairs of equal names among %d test images of A and %d of B",
            *(metric, len(pairs), len(a.names), len(b.names)),
        )
    return pairs


def _without_domain(names: Sequence[str]) -> list[str]:
    """Return names without the ending of published pairs, such as 1_A and 1_B."""
    return [re.sub(r"_[abAB]$", "", name) for name in names]
