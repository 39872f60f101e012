"""Options that save memory or time without changing the update."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax.build import build_model, build_networks
from cyclegan_jax.losses import discriminator_loss
from cyclegan_jax.models.generators import ResNetGenerator, UNetGenerator
from cyclegan_jax.models.layers import LayerConfig
from tests import smallest


@pytest.fixture(scope="module", autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def run(at_a_time=1, **changes):
    """Return state and metrics after four updates with dropout, the last two with full pools."""
    config = smallest.get_config(dropout=0.5, **{"micro_batches": 1} | changes)
    state = smallest.start_state(config)
    batches = smallest.make_batches(config, 4)
    step_fn = smallest.build_step(config)
    return smallest.arrays(*smallest.train(step_fn, state, batches, at_a_time=at_a_time))


@pytest.fixture(scope="module")
def plain():
    """Four updates of four pairs, one at a time."""
    return run()


def test_micro_batches_equal_the_batch(plain):
    """Gradients, dropout masks, pools and metrics of micro-batches are those of the batch."""
    smallest.assert_agree(run(micro_batches=4), plain)


def test_remat_is_the_configurations():
    """Both generators recompute activations where the configuration says so."""
    config = smallest.get_config()
    for remat in (False, True):
        config.generator.remat = remat
        networks = build_networks(config)
        assert networks.gen_ab.remat == networks.gen_ba.remat == remat


def test_default_micro_batches(monkeypatch):
    """Pairs are computed one by one on CPUs, except with batch norm, and at once on GPUs."""
    config = smallest.get_config()

    def micro_batches():
        return build_model(config, smallest.PAIRS).micro_batches

    assert micro_batches() is None
    config.generator.norm = "batch"
    assert micro_batches() == 1
    config.generator.norm = "instance"
    config.micro_batches = 2
    assert micro_batches() == 2
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert micro_batches() == 2
    config.micro_batches = None
    assert micro_batches() == 1


def test_steps_in_one_dispatch_equal_single_steps(plain):
    """Two dispatches of two steps give the state and the metrics of each step."""
    smallest.assert_agree(run(at_a_time=2), plain)


@pytest.mark.parametrize(
    ("network_class", "depth", "side"),
    [(ResNetGenerator, {"blocks": 2, "levels": 1}, 16), (UNetGenerator, {"depth": 6}, 64)],
)
def test_remat_of_generators(network_class, depth, side):
    """Gradients and parameter names do not change, with dropout, and less is stored for them."""
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, side, side, 3)))
    keys = jax.random.split(jax.random.key(1), 1)
    config = LayerConfig(dtype=jnp.float64)
    results = []
    for remat in (False, True):
        network = network_class(
            channels=3, width=1, config=config, dropout=0.5, remat=remat, **depth
        )
        shapes = jax.eval_shape(network.init, jax.random.key(0), x)
        rng = np.random.default_rng(1)
        params = jax.tree.map(lambda s, rng=rng: jnp.asarray(rng.normal(size=s.shape)), shapes)

        def loss(params, network=network):
            return jnp.sum(jnp.square(network.apply(params, x, keys)))

        stored = jax.tree.leaves(jax.eval_shape(lambda p, f=loss: jax.vjp(f, p)[1], params))
        results.append((jax.jit(jax.grad(loss))(params), sum(leaf.size for leaf in stored)))
    (plain, stored_plain), (remat, stored_remat) = results
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), plain, remat)
    assert stored_remat < 0.9 * stored_plain


def test_gradient_penalty_of_micro_batches():
    """The points of wgangp's penalty are those of the whole batch, and its mean is the parts'."""
    config = smallest.get_config()
    config.loss.mode = "wgangp"
    model = build_model(config, smallest.PAIRS)
    params = smallest.start_state(config).params
    keys = jax.random.split(jax.random.key(3), 4)
    rng = np.random.default_rng(2)
    real, fake = (
        {d: jnp.asarray(rng.uniform(-1, 1, (4, *smallest.SIZE, 3))) for d in ("a", "b")}
        for _ in range(2)
    )

    @jax.jit
    def compute(real, fake, keys):
        _, (terms, _) = discriminator_loss(
            params, real, fake, keys, networks=model.networks, losses=model.losses
        )
        return terms

    def terms(rows):
        return compute(*(jax.tree.map(lambda x: x[rows], tree) for tree in (real, fake, keys)))

    whole = terms(slice(0, 4))
    halves = [terms(slice(2 * i, 2 * i + 2)) for i in range(2)]
    for domain in ("a", "b"):
        mean = np.mean([half[domain] for half in halves])
        np.testing.assert_allclose(mean, whole[domain], rtol=1e-12)
