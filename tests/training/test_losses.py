"""Losses against values worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax import losses
from cyclegan_jax.losses import ADVERSARIAL_LOSSES


@pytest.mark.parametrize(
    ("mode", "generator", "discriminator"),
    [
        # Scores 0, 2: squared distances to 1 are 1, 1; to 0 they are 0, 4.
        ("lsgan", 1.0, 1.0 + 2.0),
        # -log sigmoid(0) = log 2; -log sigmoid(2) = log(1 + e^-2); with 1 - sigmoid: log(1 + e^2).
        (
            "vanilla",
            (np.log(2) + np.log1p(np.exp(-2))) / 2,
            (np.log(2) + np.log1p(np.exp(-2))) / 2 + (np.log(2) + np.log1p(np.exp(2))) / 2,
        ),
        ("wgangp", -1.0, -1.0 + 1.0),
    ],
)
def test_adversarial_by_hand(mode, generator, discriminator):
    """Each loss has its value on two scores, taken for real and for generated ones."""
    scores = jnp.array([[0.0], [2.0]])
    loss = ADVERSARIAL_LOSSES[mode]()
    np.testing.assert_allclose(loss.generator(scores), generator, rtol=1e-6)
    np.testing.assert_allclose(loss.discriminator(scores, scores), discriminator, rtol=1e-6)


@pytest.mark.parametrize("mode", ADVERSARIAL_LOSSES)
def test_real_and_generated_scores_are_told_apart(mode):
    """A discriminator's loss is lower for the right order of its scores than for the wrong one."""
    high, low = jnp.full((2, 3), 0.9), jnp.full((2, 3), 0.1)
    loss = ADVERSARIAL_LOSSES[mode]()
    assert loss.discriminator(high, low) < loss.discriminator(low, high)
    assert loss.generator(high) < loss.generator(low)


def test_soft_labels_by_hand():
    """The label of real images is also the generator's aim; that of generated ones stays 0."""
    loss = losses.lsgan(real_label=0.9)
    np.testing.assert_allclose(loss.generator(jnp.array([0.5])), 0.4**2, rtol=1e-6)
    value = loss.discriminator(jnp.array([0.5]), jnp.array([0.5]))
    np.testing.assert_allclose(value, 0.4**2 + 0.5**2, rtol=1e-6)
    loss = losses.vanilla(real_label=0.9)
    # The sigmoid of log 9 is the label: the cross-entropy is the label's entropy.
    value = loss.generator(jnp.array([np.log(9)]))
    np.testing.assert_allclose(value, -0.9 * np.log(0.9) - 0.1 * np.log(0.1), rtol=1e-6)


def test_scales_are_summed():
    """Each score map contributes its own mean."""
    maps = jnp.ones((1, 4, 4, 1)), jnp.full((1, 2, 2, 1), 3.0)
    assert losses.sum_over_scales(jnp.mean, maps) == 4.0
    doubled = tuple(2 * x for x in maps)
    assert losses.sum_over_scales(lambda x, y: jnp.mean(y - x), maps, doubled) == 4.0
    assert losses.sum_over_scales(jnp.mean, maps[1]) == 3.0


def test_l1_refuses_to_broadcast():
    """Images of different shapes are an error, not silently broadcast."""
    np.testing.assert_allclose(losses.l1(jnp.array([1.0, 4.0]), jnp.array([3.0, 3.0])), 1.5)
    with pytest.raises(ValueError, match="expected equal shapes"):
        losses.l1(jnp.ones((1, 4, 4, 3)), jnp.ones((1, 4, 4, 1)))


def test_gradient_penalty_of_a_linear_score_by_hand():
    """A score w . x has slope w everywhere: the penalty is (|w| - 1)^2, whatever is drawn."""
    real, fake = jax.random.normal(jax.random.key(0), (2, 3, 2, 2, 1))
    weight = jnp.arange(4.0).reshape(1, 2, 2, 1)  # of length sqrt(14)
    keys = jax.random.split(jax.random.key(1), 3)

    def penalty(scale):
        def discriminate(x):
            return (x * weight * scale).sum((1, 2, 3))

        return losses.gradient_penalty(discriminate, real, fake, keys)

    value, slope = jax.value_and_grad(penalty)(1.0)
    root = np.sqrt(14)
    np.testing.assert_allclose(value, (root - 1) ** 2, rtol=1e-6)
    np.testing.assert_allclose(slope, 2 * (root - 1) * root, rtol=1e-6)


def test_slope_penalty_at_given_points():
    """With the score |x|^2 / 2 the slope is the mixed point itself."""
    real, fake = np.random.default_rng(0).normal(size=(2, 2, 3, 3, 1))
    mix = np.array([0.25, 1.0])
    points = mix[:, None, None, None] * real + (1 - mix)[:, None, None, None] * fake
    expected = np.mean([(np.linalg.norm(p) - 1) ** 2 for p in points])
    value = losses.slope_penalty(
        lambda x: 0.5 * (x**2).sum((1, 2, 3)), jnp.array(real), jnp.array(fake), jnp.array(mix)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_gradient_penalty_draws_a_point_for_each_image():
    """The points between real and fake are uniform, and follow from each image's own key."""
    keys = jax.random.split(jax.random.key(0), 1000)

    def penalties(part):
        real = jnp.ones((len(part), 1, 1, 1))
        # Of the score x^2 / 2 the slope is x, which is the drawn number.
        return losses.gradient_penalty(lambda x: 0.5 * x**2, real, 0 * real, part)

    each = np.array([penalties(keys[i : i + 1]) for i in range(100)])
    np.testing.assert_allclose(penalties(keys[:100]), each.mean(), rtol=1e-5)
    assert len(np.unique(each)) > 90
    # The mean of (x - 1)^2 is 1/3, with a deviation of sqrt(4/45).
    assert abs(penalties(keys) - 1 / 3) < 4 * np.sqrt(4 / 45 / 1000)
