"""Ways to save memory or time that leave an update as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax.build import build_networks
from cyclegan_jax.distributed import compile_step, micro_batches
from cyclegan_jax.losses import discriminator_loss
from cyclegan_jax.models.generators import ResNetGenerator, UNetGenerator
from cyclegan_jax.models.layers import Share, Style
from tests import smallest


@pytest.fixture(scope="module", autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def run(at_a_time=1, remat=False, **changes):
    """State and metrics after ten updates with dropout."""
    config = smallest.get_config(dropout=0.5, **{"micro_batches": 1} | changes)
    config.generator.remat = remat
    state = smallest.start_state(config)
    batches = smallest.make_batches(config)
    step_fn = compile_step(config, smallest.PAIRS)
    return smallest.arrays(*smallest.train(step_fn, state, batches, at_a_time=at_a_time))


@pytest.fixture(scope="module")
def plain():
    """Ten updates with batches of four, one by one."""
    return run()


def test_micro_batches_equal_the_batch(plain):
    """Four of one pair each: gradients, dropout's masks, pools and metrics are the batch's."""
    smallest.assert_agree(plain, run(micro_batches=4))


def test_micro_batches_that_nobody_asked_for(monkeypatch):
    """On a CPU pair by pair, but not with batch norm; all at once on a GPU."""
    config = smallest.get_config()
    assert micro_batches(config, 4) == 4
    config.generator.norm = "batch"
    assert micro_batches(config, 4) == 1
    config.generator.norm = "instance"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert micro_batches(config, 4) == 1
    config.micro_batches = 2
    assert micro_batches(config, 4) == 2


def test_steps_in_one_dispatch_equal_steps(plain):
    """Five at a time, twice; metrics are those of each."""
    smallest.assert_agree(plain, run(at_a_time=5))


def test_remat_equals_keeping(plain):
    """Activations that are computed again are the same, dropout's masks included."""
    smallest.assert_agree(plain, run(remat=True))


@pytest.mark.parametrize(
    ("network_class", "depth", "side"),
    [(ResNetGenerator, {"blocks": 2, "levels": 1}, 16), (UNetGenerator, {"depth": 6}, 64)],
)
def test_remat_of_generators(network_class, depth, side):
    """Gradients and names of parameters stay the same, with dropout; less is kept for them."""
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, side, side, 3)))
    style = Style(dtype=jnp.float64)
    found = []
    for remat in (False, True):
        network = network_class(channels=3, width=1, style=style, dropout=0.5, remat=remat, **depth)
        shapes = jax.eval_shape(network.init, jax.random.key(0), x)
        rng = np.random.default_rng(1)
        params = jax.tree.map(lambda s, rng=rng: jnp.asarray(rng.normal(size=s.shape)), shapes)

        def loss(params, network=network):
            y = network.apply(params, x, rngs={"dropout": jax.random.key(1)})
            return jnp.sum(jnp.square(y))

        kept = jax.tree.leaves(jax.eval_shape(lambda p, f=loss: jax.vjp(f, p)[1], params))
        found.append((jax.jit(jax.grad(loss))(params), sum(leaf.size for leaf in kept)))
    (plain, kept_plain), (redone, kept_redone) = found
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), plain, redone
    )
    assert kept_redone < 0.9 * kept_plain


def test_gradient_penalty_of_micro_batches():
    """The points of wgangp's penalty are those of the whole batch, and its mean is the parts'."""
    config = smallest.get_config()
    config.loss.mode = "wgangp"
    params = smallest.start_state(config).params
    rng = np.random.default_rng(2)
    real, fake = (
        {d: jnp.asarray(rng.uniform(-1, 1, (4, *smallest.SIZE, 3))) for d in ("a", "b")}
        for _ in range(2)
    )

    def terms(share, rows):
        networks = build_networks(config, share)
        cut = [jax.tree.map(lambda x: x[rows], tree) for tree in (real, fake)]
        return discriminator_loss(networks, params, *cut, jax.random.key(3), config)

    whole = terms(Share(), slice(0, 4))
    parts = [terms(Share(part=i, parts=2), slice(2 * i, 2 * i + 2)) for i in range(2)]
    for domain in ("a", "b"):
        mean = np.mean([part[domain] for part in parts])
        np.testing.assert_allclose(mean, whole[domain], rtol=1e-12)
