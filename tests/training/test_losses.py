"""Losses against values worked by hand and PyTorch's own functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax import losses


@pytest.mark.parametrize(
    ("mode", "is_real", "expected"),
    [
        # Scores 0, 2: squared distances to 1 are 1, 1; to 0 are 0, 4.
        ("lsgan", True, 1.0),
        ("lsgan", False, 2.0),
        # -log sigmoid(0) = log 2; -log sigmoid(2) = log(1 + e^-2); with 1 - sigmoid: log(1 + e^2).
        ("vanilla", True, (np.log(2) + np.log1p(np.exp(-2))) / 2),
        ("vanilla", False, (np.log(2) + np.log1p(np.exp(2))) / 2),
        ("wgangp", True, -1.0),
        ("wgangp", False, 1.0),
    ],
)
def test_adversarial_by_hand(mode, is_real, expected):
    """Each mode on two scores, worked by hand."""
    scores = jnp.array([[0.0], [2.0]])
    np.testing.assert_allclose(losses.adversarial(scores, is_real, mode), expected, rtol=1e-6)


def test_absolute_difference_refuses_to_broadcast():
    """Images of different shapes are an error, not a silent broadcast."""
    with pytest.raises(ValueError, match="shapes differ"):
        losses.absolute_difference(jnp.ones((1, 4, 4, 3)), jnp.ones((1, 4, 4, 1)))


def test_gradient_penalty_of_a_linear_score_by_hand():
    """A score w . x has slope w everywhere: the penalty is (|w| - 1)^2, and its slope follows."""
    real, fake = jax.random.normal(jax.random.key(0), (2, 3, 2, 2, 1))
    weight = jnp.arange(4.0).reshape(1, 2, 2, 1)  # of length sqrt(14)

    def penalty(scale):
        def discriminate(x):
            return (x * weight * scale).sum((1, 2, 3))

        return losses.gradient_penalty(discriminate, real, fake, jnp.array([0.1, 0.5, 0.9]))

    value, slope = jax.value_and_grad(penalty)(1.0)
    root = np.sqrt(14)
    np.testing.assert_allclose(value, (root - 1) ** 2, rtol=1e-6)
    np.testing.assert_allclose(slope, 2 * (root - 1) * root, rtol=1e-6)


def test_gradient_penalty_mixes_each_image_by_its_share():
    """With a score |x|^2 / 2 the slope is the mixed point itself."""
    real, fake = np.random.default_rng(0).normal(size=(2, 2, 3, 3, 1))
    mix = np.array([0.25, 1.0])
    points = mix[:, None, None, None] * real + (1 - mix)[:, None, None, None] * fake
    expected = np.mean([(np.linalg.norm(p) - 1) ** 2 for p in points])
    value = losses.gradient_penalty(
        lambda x: 0.5 * (x**2).sum((1, 2, 3)), jnp.array(real), jnp.array(fake), jnp.array(mix)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
