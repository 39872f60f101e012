"""Metrics of a user's own."""

import numpy as np

from cyclegan_jax.evaluation.metrics import Metric


def darkness(context):
    """Return the metric of how dark translations to B are; brighter is worse."""

    def compute(sets):
        return {"darkness": float(np.mean([image.mean() for image in sets["fake_b"].images]))}

    assert set(context.real) == {"real_a", "real_b"}
    return Metric(("fake_b",), compute, {"darkness": False})


def no_metric(context):
    """Return something else."""
    return {"needs": ()}


def unknown_needs(context):
    """Return a metric of translations that do not exist."""
    return Metric(("fake_c",), lambda sets: {})


def inverted(context):
    """Return a metric that contradicts the built-in ones."""
    return Metric((), lambda sets: {"x/l1": 0.0}, {"l1": True})
