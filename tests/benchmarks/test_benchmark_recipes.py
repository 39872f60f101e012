"""Configurations of `benchmarks.recipes`; training them takes minutes."""

import pytest

from benchmarks import recipes
from cyclegan_jax import config as config_lib
from cyclegan_jax.evaluation.build import build_evaluation


@pytest.mark.parametrize("recipe", recipes.RUNS)
def test_translations_are_compared_with_the_truth(recipe):
    """The metric `truth`, whose results the benchmark prints, applies to the recipe's images."""
    config = recipes.small(recipe, seed=0)
    config_lib.check(config)
    config.data.shapes_test = 2
    evaluation = build_evaluation(config)
    assert "truth" in evaluation.metrics
    results = evaluation.unchanged()
    assert {"a_to_b/object_iou", "b_to_a/object_iou"} <= set(results)
