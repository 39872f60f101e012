"""Our networks, losses and update against the same in PyTorch (`benchmarks/torch_cyclegan.py`)."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import torch_cyclegan, torch_networks  # noqa: E402
from benchmarks.plain_config import default_config  # noqa: E402
from cyclegan_jax import generators, history, images  # noqa: E402
from cyclegan_jax.state import TrainState, build_networks, create_state  # noqa: E402
from cyclegan_jax.step import discriminator_loss, generator_loss, train_step  # noqa: E402
from tests.torch_params import to_flax  # noqa: E402

# Networks this small run faster on one thread, much faster where cores are shared.
torch.set_num_threads(1)

NORMS = ("instance", "batch", "none")
BATCH = 2
SIZE = 32


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """64-bit numbers in JAX during one test, and generators of few layers."""
    small = {
        "resnet1": functools.partial(generators.ResNetGenerator, blocks=1),
        "unet32": functools.partial(generators.UNetGenerator, depth=5),
    }
    for variant, build in small.items():
        monkeypatch.setitem(generators.GENERATORS, variant, build)
    monkeypatch.setitem(torch_networks.RESNET_BLOCKS, "resnet1", 1)
    monkeypatch.setitem(torch_networks.UNET_DEPTHS, "unet32", 5)
    with jax.enable_x64(True):
        yield


def small_config(**changes: Any) -> Any:
    """Narrow networks, a pool that soon is full, unlike weights, all else as published.

    Args:
        **changes: by path with `__` between the parts, as loss__mode="vanilla".
    """
    config = default_config()
    config.precision = "float64"
    config.batch_size = BATCH
    config.generator.variant, config.generator.width = "resnet1", 4
    config.discriminator.width, config.discriminator.layers = 4, 2
    config.pool_size = 3
    config.loss.adversarial, config.loss.cycle_b = 2.0, 7.0
    for path, value in changes.items():
        *parents, name = path.split("__")
        setattr(functools.reduce(getattr, parents, config), name, value)
    return config


def randomise(network: torch.nn.Module, seed: int) -> None:
    """Weights of the size that keeps signals alive, and offsets that show."""
    random = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=random, dtype=parameter.dtype)
        if parameter.ndim == 4:
            parameter.data = noise * (2 / parameter[0].numel()) ** 0.5
        else:
            # Also the scales of batch norms: 1 would hide them.
            parameter.data = 0.3 * noise + (0.5 if parameter.data.any() else 0.0)


def picture_batch(random: np.random.Generator, size: int, channels: int = 3) -> np.ndarray:
    return random.integers(0, 256, (BATCH, size, size, channels), np.uint8)


def to_torch(pictures: np.ndarray, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """uint8 [B, H, W, C] to what the PyTorch networks take."""
    return torch.from_numpy(images.to_float(pictures, np.float64)).permute(0, 3, 1, 2).to(dtype)


def assert_trees_close(ours: Any, theirs: Any, **tolerance: float) -> None:
    """Same structure, leaves alike."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        np.testing.assert_allclose(x, y, err_msg=jax.tree_util.keystr(path), **tolerance)


GENERATORS = [
    *[("resnet3", 24, norm) for norm in NORMS],
    ("resnet6", 24, "instance"),
    ("resnet9", 20, "instance"),
    *[("unet128", 128, norm) for norm in NORMS],
    ("unet256", 256, "instance"),
]
DISCRIMINATORS = [
    *[("patch", 3, norm) for norm in NORMS],
    *[("patch", layers, "instance") for layers in (1, 2, 4, 5)],
    *[("pixel", 3, norm) for norm in NORMS],
]


def network_config(kind: str, variant: str, norm: str, layers: int = 3) -> Any:
    """One network of a kind as asked for, in float32, 2 channels in A and 3 in B."""
    changes: dict[str, Any] = {"precision": "float32", "generator__variant": "resnet3"}
    changes |= {"data__channels_a": 2, "discriminator__layers": layers}
    return small_config(**changes | {f"{kind}__variant": variant, f"{kind}__norm": norm})


@pytest.mark.parametrize(("variant", "size", "norm"), GENERATORS)
def test_generators_equal_torchs(variant: str, size: int, norm: str) -> None:
    """Same weights, same pictures (2 channels in, 3 out): same pictures to 1e-4."""
    config = network_config("generator", variant, norm)
    theirs = torch_networks.build_generator(config, 2, 3)
    randomise(theirs, 0)
    x = picture_batch(np.random.default_rng(0), size, channels=2)
    with torch.no_grad():
        expected = theirs(to_torch(x, torch.float32)).permute(0, 2, 3, 1).numpy()
    apply = jax.jit(build_networks(config).gen_ab.apply)
    ours = apply({"params": to_flax(theirs.state_dict())}, images.to_float(x))
    assert expected.std() > 0.1
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize(("variant", "layers", "norm"), DISCRIMINATORS)
def test_discriminators_equal_torchs(variant: str, layers: int, norm: str) -> None:
    """Same weights, same pictures: same scores to 1e-4."""
    config = network_config("discriminator", variant, norm, layers)
    theirs = torch_networks.build_discriminator(config, 2)
    randomise(theirs, 1)
    x = picture_batch(np.random.default_rng(1), 136, channels=2)
    with torch.no_grad():
        expected = theirs(to_torch(x, torch.float32)).permute(0, 2, 3, 1).numpy()
    apply = jax.jit(build_networks(config).disc_a.apply)
    ours = apply({"params": to_flax(theirs.state_dict())}, images.to_float(x))
    assert expected.std() > 0.1
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("variant", ["resnet9", "unet256", "patch", "pixel"])
@pytest.mark.parametrize("norm", NORMS)
def test_parameters_have_torchs_names_and_shapes(variant: str, norm: str) -> None:
    """Also where two trees would compute the same: no parameter more, none less, at full width."""
    kind = "discriminator" if variant in ("patch", "pixel") else "generator"
    config = network_config(kind, variant, norm)
    config.generator.width = config.discriminator.width = 64
    networks = build_networks(config)
    if kind == "generator":
        theirs, ours, x = torch_networks.build_generator(config, 2, 3), networks.gen_ab, (256, 2)
    else:
        theirs, ours, x = torch_networks.build_discriminator(config, 3), networks.disc_b, (256, 3)
    side, channels = x
    shapes = jax.eval_shape(ours.init, jax.random.key(0), jnp.zeros((1, side, side, channels)))
    expected = jax.tree.map(np.shape, to_flax(theirs.state_dict()))
    assert jax.tree.map(lambda leaf: leaf.shape, shapes["params"]) == expected


def trainer_and_state(config: Any) -> tuple[torch_cyclegan.Trainer, TrainState]:
    """Both with the same weights: the published start, whose scale training is made for."""
    torch.manual_seed(0)
    trainer = torch_cyclegan.Trainer(config, dtype=torch.float64)
    state = create_state(config, (SIZE, SIZE))
    return trainer, state.replace(params=flax_params(trainer))


def flax_params(trainer: torch_cyclegan.Trainer) -> dict[str, Any]:
    return {name: to_flax(net.state_dict()) for name, net in trainer.networks.items()}


def step_draws(state: TrainState, config: Any) -> torch_cyclegan.Draws:
    """What `train_step` draws at this state, for the PyTorch trainer to replay."""
    keys = jax.random.split(jax.random.fold_in(state.key, state.step), 4)
    pools = []
    for key in keys[1:3]:
        drawn = history.draw(key, BATCH, max(config.pool_size, 1))
        pools.append(list(zip(drawn.exchange.tolist(), drawn.index.tolist(), strict=True)))
    mix = {
        domain: torch.tensor(np.array(jax.random.uniform(jax.random.fold_in(keys[3], i), (BATCH,))))
        for i, domain in enumerate(("a", "b"))
    }
    return torch_cyclegan.Draws(*pools, mix)


TRAININGS = {
    "as published": {},
    "discriminators first, vanilla, batch norm": {
        "update_first": "discriminators",
        "loss__mode": "vanilla",
        "generator__norm": "batch",
        "discriminator__norm": "batch",
    },
    "wgangp, no identity": {"loss__mode": "wgangp", "loss__identity": 0.0},
    "no norm, pixel, no pool": {
        "generator__norm": "none",
        "discriminator__norm": "none",
        "discriminator__variant": "pixel",
        "pool_size": 0,
    },
    "unet": {"generator__variant": "unet32", "generator__width": 2},
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", TRAININGS)
def test_training_follows_torchs(name: str) -> None:
    """Five updates in float64 from the same weights, batches and draws: losses to 1e-6 relative."""
    config = small_config(**TRAININGS[name])
    trainer, state = trainer_and_state(config)
    random = np.random.default_rng(0)
    step = jax.jit(
        functools.partial(train_step, config=config, pairs_per_epoch=1000),
        # Compiling is nearly all of this test's time.
        compiler_options={"xla_backend_optimization_level": 0},
    )
    exchanged = 0
    for _ in range(5):
        batch = {domain: picture_batch(random, SIZE) for domain in ("a", "b")}
        draws = step_draws(state, config)
        exchanged += sum(use_old for use_old, _ in draws.pool_a)
        state, metrics = step(state, batch)
        expected = trainer.step(to_torch(batch["a"]), to_torch(batch["b"]), draws)
        assert len(expected) == (6 if config.loss.identity == 0 else 8)
        for term, value in expected.items():
            np.testing.assert_allclose(metrics[term], value, rtol=1e-6, err_msg=term)
    # Adam has moved every weight by about 1e-3 since.
    assert_trees_close(state.params, flax_params(trainer), atol=1e-6)
    if config.pool_size:
        assert exchanged
        for domain, pool in trainer.pools.items():
            theirs = torch.stack(pool.images).permute(0, 2, 3, 1)
            np.testing.assert_allclose(state.pools[domain].images, theirs, atol=1e-6)


def gradients(term: torch.Tensor, network: torch.nn.Module) -> dict[str, Any]:
    """Of one loss by the parameters of one network, in our structure."""
    named = dict(network.named_parameters())
    found = torch.autograd.grad(
        term, named.values(), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return to_flax(dict(zip(named, found, strict=True)))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("mode", ["lsgan", "vanilla", "wgangp"])
def test_gradients_of_every_loss_equal_torchs(mode: str) -> None:
    """Each term by each network that it trains, in float64, to 1e-8 of the largest."""
    config = small_config(loss__mode=mode)
    trainer, state = trainer_and_state(config)
    random = np.random.default_rng(1)
    real = {domain: picture_batch(random, SIZE) for domain in ("a", "b")}
    shown = {domain: picture_batch(random, SIZE) for domain in ("a", "b")}
    real_torch, shown_torch = ({d: to_torch(x) for d, x in p.items()} for p in (real, shown))
    real_ours, shown_ours = (
        {d: jnp.asarray(images.to_float(x, np.float64)) for d, x in p.items()}
        for p in (real, shown)
    )
    networks, key = build_networks(config), jax.random.split(jax.random.fold_in(state.key, 0), 4)[3]

    def ours(params: Any) -> dict[str, jax.Array]:
        _, (terms, _) = generator_loss(networks, params, real_ours, key, config)
        return terms | discriminator_loss(networks, params, real_ours, shown_ours, key, config)

    values, pull_back = jax.vjp(ours, state.params)
    theirs, _ = trainer.generator_losses(real_torch)
    trained = dict.fromkeys(theirs, ("gen_ab", "gen_ba"))
    theirs |= trainer.discriminator_losses(real_torch, shown_torch, step_draws(state, config).mix)
    trained |= {"a": ("disc_a",), "b": ("disc_b",)}
    assert set(values) == set(theirs)
    for term, names in trained.items():
        (found,) = pull_back({name: jnp.float64(name == term) for name in values})
        for name in names:
            expected = gradients(theirs[term], trainer.networks[name])
            largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
            assert_trees_close(found[name], expected, atol=1e-8 * largest)
