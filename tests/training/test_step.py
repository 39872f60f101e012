"""Properties of the update."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from cyclegan_jax import image_pool
from cyclegan_jax.build import build_networks
from cyclegan_jax.config import to_json
from cyclegan_jax.losses import discriminator_loss, generator_loss
from cyclegan_jax.step import compile_step, train_step
from cyclegan_jax.utils import image_io
from tests.states import start_state
from tests.tiny import get_config as tiny_config

PAIRS = 12
SIZE = (32, 32)


def batches(count, batch_size=2, seed=0):
    """Noise for images."""
    rng = np.random.default_rng(seed)
    shape = (batch_size, *SIZE, 3)
    return [
        {domain: rng.integers(0, 256, shape, np.uint8) for domain in ("a", "b")}
        for _ in range(count)
    ]


@functools.cache
def compiled_step(config):
    """One for all tests of a configuration, given as JSON."""
    return compile_step(ConfigDict(json.loads(config)), PAIRS)


def run(config, given):
    """States after each update; the compiled step uses up what it is given, so copies are kept."""
    step = compiled_step(to_json(config))
    state, states = start_state(config, SIZE), []
    for batch in given:
        state, _ = step(state, batch)
        states.append(jax.tree.map(jnp.copy, state))
    return states


def same_bits(x, y):
    """Whether two trees are equal to the last bit."""
    x, y = (jax.tree.map(lambda leaf: leaf, tree) for tree in (x, y))
    pairs = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    return all(np.array_equal(_raw(a), _raw(b)) for a, b in pairs)


def _raw(leaf):
    typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if typed else leaf)


def test_is_a_function_of_state_and_batch():
    """The same state and batches give the same bits."""
    config = tiny_config()
    given = batches(3)
    assert same_bits(run(config, given)[-1], run(config, given)[-1])


@pytest.mark.parametrize("first", ["generators", "discriminators"])
def test_order_of_updates(first):
    """Each side moves by Adam along its own loss; the second sees what the first has become."""
    config = tiny_config()
    config.update_first = first
    config.pool_size = 0
    config.loss.adversarial = 1.0
    networks = build_networks(config)
    state = start_state(config, SIZE)
    (batch,) = batches(1)
    real = {d: image_io.to_float(jnp.asarray(batch[d])) for d in ("a", "b")}
    generators, discriminators = (
        {n: state.params[n] for n in names}
        for names in (("gen_ab", "gen_ba"), ("disc_a", "disc_b"))
    )
    # Adam's first step is the sign of the gradient times the rate, nearly: an independent oracle
    # is optax on the losses as they stand alone.
    adam = optax.adam(2e-4, b1=0.5, b2=0.999)

    def move(params, loss):
        updates, _ = adam.update(jax.jit(jax.grad(loss))(params), adam.init(params), params)
        return optax.apply_updates(params, updates)

    def loss_g(params, others):
        return generator_loss(networks, params | others, real, jax.random.key(0), config)[0]

    def loss_d(params, fakes):
        terms = discriminator_loss(networks, params, real, fakes, jax.random.key(0), config)
        return terms["a"] + terms["b"]

    fakes = {
        "b": networks.gen_ab.apply({"params": generators["gen_ab"]}, real["a"]),
        "a": networks.gen_ba.apply({"params": generators["gen_ba"]}, real["b"]),
    }
    if first == "generators":
        generators = move(generators, functools.partial(loss_g, others=discriminators))
        discriminators = move(discriminators, functools.partial(loss_d, fakes=fakes))
    else:
        discriminators = move(discriminators, functools.partial(loss_d, fakes=fakes))
        generators = move(generators, functools.partial(loss_g, others=discriminators))
    after = run(config, [batch])[-1]
    for name, expected in (generators | discriminators).items():
        # Where a gradient is nearly nothing its sign is rounding: a few may differ by two rates.
        off = [
            np.abs(np.asarray(x) - np.asarray(y)) > 1e-5
            for x, y in zip(
                jax.tree.leaves(after.params[name]), jax.tree.leaves(expected), strict=True
            )
        ]
        wrong = sum(o.sum() for o in off) / sum(o.size for o in off)
        # Biases before an instance norm have no gradient but rounding; nothing else may differ.
        assert wrong < 0.05, name


def test_metrics_and_state_after_an_update():
    """All losses, norms and the rate are there and finite; step counts up; pools take the fakes."""
    config = tiny_config()
    state = start_state(config, SIZE)
    step = compiled_step(to_json(config))
    after, metrics = step(jax.tree.map(jnp.copy, state), batches(1)[0])
    assert set(metrics) == {
        "learning_rate",
        "gradient_norm/generators",
        "gradient_norm/discriminators",
        "discriminators/a",
        "discriminators/b",
        *(f"generators/adversarial_{d}" for d in ("ab", "ba")),
        *(f"generators/{term}_{d}" for term in ("cycle", "identity") for d in ("a", "b")),
    }
    assert all(np.isfinite(v) and np.shape(v) == () for v in metrics.values())
    assert int(after.step) == 1
    assert int(after.pools["a"].count) == int(after.pools["b"].count) == 2
    networks = build_networks(config)
    real_a = image_io.to_float(jnp.asarray(batches(1)[0]["a"]))
    fake_b = networks.gen_ab.apply({"params": state.params["gen_ab"]}, real_a)
    np.testing.assert_allclose(after.pools["b"].images[:2], fake_b, atol=1e-5)


def test_identity_weight_zero_leaves_the_term_out():
    """No identity metric, and generators that differ in channels are possible."""
    config = tiny_config()
    config.loss.identity = 0.0
    config.data.channels_b = 1
    state = start_state(config, SIZE)
    batch = batches(1)[0]
    batch["b"] = batch["b"][..., :1]
    step = jax.jit(functools.partial(train_step, config=config, pairs_per_epoch=PAIRS))
    _, metrics = step(state, batch)
    assert not any("identity" in name for name in metrics)


@pytest.mark.parametrize("mode", ["vanilla", "wgangp"])
def test_other_modes_update_all_networks(mode):
    """Every kernel of every network moves, through the gradient penalty too."""
    config = tiny_config()
    config.loss.mode = mode
    before, after = start_state(config, SIZE), run(config, batches(1))[-1]
    for path, x in jax.tree.leaves_with_path(before.params):
        if "kernel" in str(path[-1]):
            y = functools.reduce(lambda tree, key: tree[key.key], path, after.params)
            assert not np.array_equal(x, y), path


def test_pool_is_asked_before_the_discriminators():
    """With a full pool the discriminators' loss is that of what the pool's own draws return."""
    config = tiny_config()
    config.loss.adversarial = 1.0
    state = run(config, batches(3))[-1]
    assert int(state.pools["a"].count) == 4  # full after two updates of two
    batch = batches(1, seed=9)[0]
    _, metrics = compiled_step(to_json(config))(jax.tree.map(jnp.copy, state), batch)
    networks = build_networks(config)
    real = {d: image_io.to_float(jnp.asarray(batch[d])) for d in ("a", "b")}
    _, key_a, key_b, _ = jax.random.split(jax.random.fold_in(state.key, 3), 4)
    fakes = {
        "b": networks.gen_ab.apply({"params": state.params["gen_ab"]}, real["a"]),
        "a": networks.gen_ba.apply({"params": state.params["gen_ba"]}, real["b"]),
    }
    shown = {
        d: image_pool.query(state.pools[d], fakes[d], key)[1]
        for d, key in (("a", key_a), ("b", key_b))
    }
    expected = discriminator_loss(networks, state.params, real, shown, key_a, config)
    for domain in ("a", "b"):
        np.testing.assert_allclose(metrics[f"discriminators/{domain}"], expected[domain], rtol=1e-4)
