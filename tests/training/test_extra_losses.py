"""Further losses of the generators, with frozen parameters and with feature maps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cyclegan_jax.build import build_model
from cyclegan_jax.losses import ExtraLoss, generator_loss
from cyclegan_jax.step import generate, train_step
from cyclegan_jax.utils import image_io
from tests import smallest

FROZEN = {"filter": np.random.default_rng(5).normal(size=(3, 2))}
WEIGHT = 3.0
# Compilation takes nearly all of these tests' time.
QUICK = {"xla_backend_optimization_level": 0}


def perceptual(passes, frozen, networks):
    """Compare fakes with their inputs after a fixed linear map of the channels."""
    del networks
    distances = [
        jnp.mean(jnp.square((fake - real) @ frozen["filter"]))
        for fake, real in ((passes.fake_b, passes.real_a), (passes.fake_a, passes.real_b))
    ]
    return WEIGHT * sum(distances)


def contrastive(passes, frozen, networks):
    """Keep a feature map of gen_ab small, as a stand-in for a contrastive loss."""
    del frozen
    return jnp.mean(jnp.square(networks["gen_ab"].features(passes.real_a, ["down_0"])["down_0"]))


@pytest.fixture(scope="module", autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def plain():
    """An update without further losses."""
    return update({})


@pytest.fixture(scope="module")
def whole():
    """An update with the perceptual loss."""
    return update({"perceptual": ExtraLoss(perceptual, FROZEN)})


def update(extra, micro_batches=1, frozen=None):
    """Return state and metrics after one update with further losses, and the state before."""
    config = smallest.get_config(micro_batches=micro_batches, batch_size=2)
    model = build_model(config, smallest.PAIRS)
    model = model._replace(losses=dataclasses.replace(model.losses, extra=extra))
    state = smallest.start_state(config)
    (batch,) = smallest.make_batches(config, 1)
    step = jax.jit(functools.partial(train_step, model=model), compiler_options=QUICK)
    after, metrics = step(state, batch, frozen)
    return state, after, metrics, model, batch


def test_term_and_gradient(whole, plain):
    """The term is a metric, worked out with NumPy, and the gradient is that of the sum."""
    state, after, metrics, model, batch = whole
    real = {d: jnp.asarray(image_io.to_float(batch[d], np.float64)) for d in ("a", "b")}
    fake = jax.jit(functools.partial(generate, model=model))(
        state.params, real, jax.random.split(jax.random.key(0), 2)
    )

    def term(fake):
        pairs = ((fake["b"], real["a"]), (fake["a"], real["b"]))
        mapped = [jnp.einsum("bhwi,io->bhwo", x - y, FROZEN["filter"]) for x, y in pairs]
        return WEIGHT * sum((x**2).mean() for x in mapped)

    np.testing.assert_allclose(metrics["generators/perceptual"], term(fake), rtol=1e-9)

    def loss(generators):
        parts = {"networks": model.networks, "losses": dataclasses.replace(model.losses, extra={})}
        keys = jax.random.split(jax.random.key(0), 2)
        base, (_, fake) = generator_loss(
            generators, state.params, {}, state.step, real, keys, **parts
        )
        return base + term(fake)

    generators = {name: state.params[name] for name in ("gen_ab", "gen_ba")}
    norm = optax.tree.norm(jax.jit(jax.grad(loss), compiler_options=QUICK)(generators))
    np.testing.assert_allclose(metrics["gradient_norm/generators"], norm, rtol=1e-9)
    _, after_plain, plain_metrics, *_ = plain
    assert set(metrics) - set(plain_metrics) == {"generators/perceptual"}
    kernel = after.params["gen_ab"]["stem"]["kernel"]
    assert not np.array_equal(kernel, after_plain.params["gen_ab"]["stem"]["kernel"])


def test_frozen_parameters_are_not_in_the_state(whole):
    """The state has the leaves that it has without the loss, and no gradient is computed."""
    state, after, _, model, batch = whole
    assert jax.tree.structure(after) == jax.tree.structure(state)
    shapes = [leaf.shape for leaf in jax.tree.leaves(after)]
    assert FROZEN["filter"].shape not in shapes
    # An integer cannot be differentiated: as a trained parameter it would be an error.
    rounded = {"filter": np.rint(4 * FROZEN["filter"]).astype(np.int32)}
    step = functools.partial(train_step, model=model)
    _, integers = jax.eval_shape(step, state, batch, {"perceptual": rounded})
    assert integers["generators/perceptual"].shape == ()


def test_frozen_parameters_are_an_argument_and_whole_in_micro_batches(whole):
    """Parameters passed to the update replace the loss's; the term is a mean of parts."""
    _, after, metrics, *_ = whole
    extra = {"perceptual": ExtraLoss(perceptual, {"filter": 2 * FROZEN["filter"]})}
    _, parts, metrics_of_parts, *_ = update(extra, 2, frozen={"perceptual": FROZEN})
    smallest.assert_agree(smallest.arrays(parts, metrics_of_parts), smallest.arrays(after, metrics))


def test_feature_maps(plain):
    """A loss of a generator's feature map is a term, and trains that generator only."""
    extra = {"contrastive": ExtraLoss(contrastive)}
    state, after, metrics, model, batch = update(extra)
    _, after_plain, *_ = plain
    real = image_io.to_float(batch["a"], np.float64)
    params = state.params["gen_ab"]
    network = model.networks.gen_ab
    capture = functools.partial(
        network.apply, capture_intermediates=True, mutable=["intermediates"]
    )
    _, captured = jax.jit(capture)({"params": params}, real)
    (feature_map,) = captured["intermediates"]["down_0"]["__call__"]
    expected = jnp.mean(jnp.square(feature_map))
    np.testing.assert_allclose(metrics["generators/contrastive"], expected, rtol=1e-9)
    for name, differs in (("gen_ab", True), ("gen_ba", False)):
        pairs = zip(
            jax.tree.leaves(after.params[name]),
            jax.tree.leaves(after_plain.params[name]),
            strict=True,
        )
        assert any(not np.allclose(x, y, rtol=0, atol=1e-9) for x, y in pairs) == differs
