"""Properties of the update."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from cyclegan_jax import image_pool, ops
from cyclegan_jax.build import build_model, build_networks
from cyclegan_jax.config import to_json
from cyclegan_jax.distributed import compile_step
from cyclegan_jax.losses import discriminator_loss, generator_loss
from cyclegan_jax.step import norm, train_step
from cyclegan_jax.utils import image_io
from tests.short import get_config as short_config
from tests.states import noise_batches, same_bits, start_state

PAIRS = 12


def tiny_config():
    """Return a small configuration with batches of two."""
    config = short_config()
    config.batch_size = 2
    return config


@functools.cache
def compiled_step(config):
    """Compile the update of a configuration, given as JSON, once for all tests."""
    return compile_step(build_model(ConfigDict(json.loads(config)), PAIRS))


def run(config, batches):
    """Return the states after each update, as copies of those that the next update donates."""
    step = compiled_step(to_json(config))
    state, states = start_state(config), []
    for batch in batches:
        state, _ = step(state, batch)
        states.append(jax.tree.map(jnp.copy, state))
    return states


def real_images(batch):
    """Return a batch's images in [-1, 1]."""
    return {d: image_io.to_float(jnp.asarray(batch[d])) for d in ("a", "b")}


def fakes(config, params, real):
    """Translate both domains with the networks alone."""
    networks = build_networks(config)
    # Operations one by one would be compiled one by one.
    gen_ab, gen_ba = jax.jit(networks.gen_ab.apply), jax.jit(networks.gen_ba.apply)
    return {
        "b": gen_ab({"params": params["gen_ab"]}, real["a"]),
        "a": gen_ba({"params": params["gen_ba"]}, real["b"]),
    }


def test_is_a_function_of_state_and_batch():
    """The same state and batches give the same bits."""
    config = tiny_config()
    batches = noise_batches(3)
    assert same_bits(run(config, batches)[-1], run(config, batches)[-1])


@pytest.mark.parametrize("first", ["generators", "discriminators"])
def test_order_of_updates(first):
    """Each side takes an Adam step on its own loss; the second side sees the updated first."""
    config = tiny_config()
    config.update_first = first
    config.pool_size = 0
    model = build_model(config, PAIRS)
    parts = {"networks": model.networks, "losses": model.losses}
    state = start_state(config)
    (batch,) = noise_batches(1)
    real, keys = real_images(batch), jax.random.split(jax.random.key(0), 2)
    generators, discriminators = (
        {n: state.params[n] for n in names}
        for names in (("gen_ab", "gen_ba"), ("disc_a", "disc_b"))
    )
    # The oracle is optax on the losses by themselves.
    adam = optax.adam(2e-4, b1=0.5, b2=0.999)

    def move(params, loss):
        updates, _ = adam.update(jax.jit(jax.grad(loss))(params), adam.init(params), params)
        return optax.apply_updates(params, updates)

    def loss_g(params, others):
        return generator_loss(params, others, {}, jnp.int32(0), real, keys, **parts)[0]

    def loss_d(params, fake):
        return discriminator_loss(params, real, fake, keys, **parts)[0]

    fake = fakes(config, generators, real)
    if first == "generators":
        generators = move(generators, functools.partial(loss_g, others=discriminators))
        discriminators = move(discriminators, functools.partial(loss_d, fake=fake))
    else:
        discriminators = move(discriminators, functools.partial(loss_d, fake=fake))
        generators = move(generators, functools.partial(loss_g, others=discriminators))
    after = run(config, [batch])[-1]
    for name, expected in (generators | discriminators).items():
        # Adam's first step is nearly the sign of the gradient times the rate. Where the gradient is
        # nearly zero, rounding decides the sign: a few values may differ by twice the rate.
        off = [
            np.abs(np.asarray(x) - np.asarray(y)) > 1e-5
            for x, y in zip(
                jax.tree.leaves(after.params[name]), jax.tree.leaves(expected), strict=True
            )
        ]
        assert sum(o.sum() for o in off) / sum(o.size for o in off) < 0.05, name


def test_metrics_and_state_after_an_update():
    """All metrics are finite scalars; the step is counted, and the pools take the fakes."""
    config = tiny_config()
    state = start_state(config)
    (batch,) = noise_batches(1)
    step = compiled_step(to_json(config))
    after, metrics = step(jax.tree.map(jnp.copy, state), batch)
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
    fake = fakes(config, state.params, real_images(batch))
    for domain in ("a", "b"):
        np.testing.assert_allclose(after.pools[domain].images[:2], fake[domain], atol=1e-5)


def test_identity_weight_zero_leaves_the_term_out():
    """Without identity losses there is no metric, and domains may differ in channels."""
    config = tiny_config()
    config.loss.identity = 0.0
    config.data.channels_b = 1
    state = start_state(config)
    batch = noise_batches(1)[0]
    batch["b"] = batch["b"][..., :1]
    step = functools.partial(train_step, model=build_model(config, PAIRS))
    _, metrics = jax.eval_shape(step, state, batch)
    assert not any("identity" in name for name in metrics)
    assert "generators/cycle_b" in metrics


def test_discriminators_are_shown_what_the_pools_return():
    """With full pools, the discriminators' losses are those of the images that are drawn."""
    config = tiny_config()
    state = run(config, noise_batches(3))[-1]
    assert int(state.pools["a"].count) == 4  # full after two updates of two
    batch = noise_batches(1, seed=9)[0]
    _, metrics = compiled_step(to_json(config))(jax.tree.map(jnp.copy, state), batch)
    model = build_model(config, PAIRS)
    real = real_images(batch)
    _, key_a, key_b, _ = jax.random.split(jax.random.fold_in(state.key, 3), 4)
    fake = fakes(config, state.params, real)
    shown = {
        d: image_pool.query(state.pools[d], fake[d], key)[1]
        for d, key in (("a", key_a), ("b", key_b))
    }
    assert any(not np.array_equal(shown[d], fake[d]) for d in ("a", "b"))
    keys = jax.random.split(jax.random.key(0), 2)
    loss = functools.partial(discriminator_loss, networks=model.networks, losses=model.losses)
    _, (expected, _) = jax.jit(loss)(state.params, real, shown, keys)
    for domain in ("a", "b"):
        np.testing.assert_allclose(metrics[f"discriminators/{domain}"], expected[domain], rtol=1e-4)


def holds_tracer(value):
    """Return whether a traced value is among the fields of an object, at any depth."""
    if isinstance(value, jax.core.Tracer):
        return True
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # A module's parent and scope are Flax's own.
        names = {field.name for field in dataclasses.fields(value)} - {"parent"}
        return any(holds_tracer(getattr(value, name)) for name in names)
    if isinstance(value, functools.partial):
        return holds_tracer((value.args, value.keywords))
    if isinstance(value, dict):
        value = tuple(value.values())
    return isinstance(value, tuple | list) and any(map(holds_tracer, value))


@pytest.mark.parametrize(
    ("form", "norm", "axis_name", "micro_batches"),
    [("direct", "instance", None, 2), ("cpu", "batch", "batch", 1)],
)
def test_is_traced_without_asking_for_the_backend(
    monkeypatch, form, norm, axis_name, micro_batches
):
    """Only `ops` asks for the backend, and no module holds a traced value."""
    config = tiny_config()
    config.generator.norm = config.discriminator.norm = norm
    config.generator.dropout = 0.5
    config.micro_batches = micro_batches
    model = build_model(config, PAIRS)
    if axis_name is not None:
        model = model._replace(networks=build_networks(config, axis_name), axis_name=axis_name)
    state, (batch,) = start_state(config), noise_batches(1)

    def fail():
        raise AssertionError("the update asks for the backend")

    modules = []

    def record(method, args, kwargs, context):
        assert not holds_tracer(context.module), context.module
        modules.append(type(context.module).__name__)
        return method(*args, **kwargs)

    monkeypatch.setattr(jax, "default_backend", fail)
    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setattr(jax, "local_devices", fail)
    jax.clear_caches()  # or networks traced before would not be traced again
    step = functools.partial(train_step, model=model)
    with ops.default_form(form), nn.intercept_methods(record):
        jax.make_jaxpr(step, axis_env=[(axis_name, 1)] if axis_name else None)(state, batch)
    assert {"ResNetGenerator", "ResidualBlock", "PatchDiscriminator", "Conv"} <= set(modules)
    # A value in a field would be found.
    tracers = []
    jax.make_jaxpr(lambda x: tracers.append(holds_tracer(config_with(x))))(1.0)
    assert tracers == [True]


@pytest.mark.parametrize(("kernels", "expected"), [("xla", False), ("triton", True)])
def test_kernels_of_the_configuration(kernels, expected):
    """The update has kernels of ours if configured, whichever form is the default."""
    config = tiny_config()
    config.kernels = kernels
    config.generator.width = 8
    model = build_model(config, PAIRS)
    with ops.default_form("direct"):
        step = functools.partial(train_step, model=model)
        jaxpr = jax.make_jaxpr(step)(start_state(config), noise_batches(1)[0])
        assert ("pallas_call" in str(jaxpr)) == expected
        assert ops.forms.chosen_form() == "direct"


def test_norm_is_that_of_all_numbers():
    """The norm of a tree is NumPy's of all its numbers, whatever the arrays' ranks."""
    rng = np.random.default_rng(0)
    shapes = [(3, 2, 4), (5,), (1, 7), ()]
    tree = {"a": [jnp.asarray(rng.normal(size=shape)) for shape in shapes]}
    want = np.linalg.norm(np.concatenate([x.ravel() for x in jax.tree.leaves(tree)]))
    np.testing.assert_allclose(norm(tree), want, rtol=1e-6)


def config_with(gain):
    """Build a network whose settings hold a value."""
    networks = build_networks(tiny_config())
    config = dataclasses.replace(networks.gen_ab.config, gain=gain)
    return networks.gen_ab.clone(config=config)
