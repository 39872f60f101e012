"""Learning rates at the start, the knee, the end and past it, worked by hand from the papers."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from cyclegan_jax.build import build_model, build_schedule, run_length
from cyclegan_jax.distributed import compile_step
from cyclegan_jax.step import learning_rate, watch_plateau
from cyclegan_jax.utils.errors import UserError
from tests import tiny
from tests.states import noise_batches, start_state

PAIRS = 10


def factor_at(config, epoch, update=0):
    """Return the learning rate at an update of an epoch of ten pairs, divided by the first."""
    return float(build_schedule(config, PAIRS)(epoch * PAIRS + update)) / 2e-4


@pytest.mark.parametrize(
    ("epoch", "factor"),
    # Counted from 0 here, from 1 in the published 1 - max(0, epoch - 100) / 101.
    [(0, 1), (99, 1), (100, 100 / 101), (149, 51 / 101), (199, 1 / 101), (200, 0), (300, 0)],
)
def test_linear(epoch, factor):
    """The rate is constant for 100 epochs, then decays in 101 steps; it is never negative."""
    config = default.get_config()
    np.testing.assert_allclose(factor_at(config, epoch), factor, atol=1e-7)
    np.testing.assert_allclose(factor_at(config, epoch, PAIRS - 1), factor, atol=1e-7)


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1), (49, 1), (50, 0.1), (100, 0.01)])
def test_step(epoch, factor):
    """The rate is divided by ten after every 50 epochs."""
    config = default.get_config()
    config.schedule.name = "step"
    np.testing.assert_allclose(factor_at(config, epoch), factor, rtol=1e-6)


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1), (50, 0.853553), (100, 0.5), (200, 0)])
def test_cosine(epoch, factor):
    """The rate follows half a wave over `constant_epochs`: cos(pi/4) = 0.7071 after a quarter."""
    config = default.get_config()
    config.schedule.update({"name": "cosine", "constant_epochs": 200, "decay_epochs": 0})
    np.testing.assert_allclose(factor_at(config, epoch), factor, atol=1e-6)


def test_cosine_rises_in_epochs_of_decay():
    """As published, `decay_epochs` are the way back to the full rate."""
    config = default.get_config()
    config.schedule.name = "cosine"
    factors = [factor_at(config, epoch) for epoch in (0, 50, 100, 150, 199)]
    np.testing.assert_allclose(factors, [1, 0.5, 0, 0.5, 0.999753], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "epoch", "factor"),
    [  # Of linear 1 - max(0, epoch + 1 - 100) / 101 with epochs from 1; see also below.
        ("linear", 98, 1),
        ("linear", 99, 100 / 101),
        ("linear", 198, 1 / 101),
        ("linear", 199, 0),
        ("step", 48, 1),
        ("step", 49, 0.1),
        ("step", 99, 0.01),
        ("cosine", 49, 0.5),
        ("cosine", 99, 0),
        ("cosine", 199, 1),
        ("plateau_published", 5, 1),
        ("plateau_published", 6, 0.2),
        ("plateau_published", 12, 0.04),
    ],
)
def test_stepped_first(name, epoch, factor):
    """The rate of each epoch is the one that the next has otherwise; within it, it is constant."""
    config = default.get_config()
    config.schedule.name = name
    config.schedule.stepped_first = True
    for update in (0, PAIRS - 1):
        np.testing.assert_allclose(factor_at(config, epoch, update), factor, atol=1e-6)


@pytest.mark.parametrize("name", ["linear", "step", "cosine", "plateau_published"])
@pytest.mark.parametrize("stepped_first", [False, True])
def test_order_of_steps_is_that_of_pytorchs_schedulers(name, stepped_first):
    """PyTorch's schedulers, stepped before or after each epoch, have the same rates."""
    torch = pytest.importorskip("torch")
    config = default.get_config()
    config.schedule.update(
        {"name": name, "constant_epochs": 5, "decay_epochs": 6, "step_epochs": 3}
    )
    config.schedule.stepped_first = stepped_first
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=2e-4)
    if name == "linear":

        def factor(epoch):
            return 1 - max(0, epoch + 1 - 5) / (6 + 1)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    elif name == "step":
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.1)
    elif name == "cosine":
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)
    else:
        scheduler = published_plateau(optimizer)
    # The metric of the published code's `plateau` is always 0.
    metric = [0] if name == "plateau_published" else []
    for epoch in range(60 if metric else 11):
        optimizer.step()
        if stepped_first:
            scheduler.step(*metric)
        expected = scheduler.get_last_lr()[0] / 2e-4
        np.testing.assert_allclose(factor_at(config, epoch), expected, rtol=2e-6, atol=1e-7)
        if not stepped_first:
            scheduler.step(*metric)


def published_plateau(optimizer):
    """PyTorch's scheduler with the published code's arguments."""
    torch = pytest.importorskip("torch")
    return torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="min", factor=0.2, threshold=0.01, patience=5
    )


# Losses of epochs: falling, falling too slowly, falling again, then the least for good.
PLATEAU_LOSSES = [*np.linspace(9, 7, 5), *np.linspace(7, 6.94, 9), *np.linspace(6, 5, 3), *[5] * 60]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_plateau_follows_the_mean_loss_of_an_epoch_as_pytorchs_scheduler(batch_size):
    """Every epoch has the rate that PyTorch's scheduler gives it, down to the last reduction."""
    torch = pytest.importorskip("torch")
    config = default.get_config()
    config.schedule.name = "plateau"
    config.batch_size = batch_size
    updates = 12 // batch_size
    schedule = build_schedule(config, 12)
    model = SimpleNamespace(schedule=schedule)
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=2e-4)
    scheduler = published_plateau(optimizer)

    @jax.jit
    def update(optimizers, step, loss):
        state = SimpleNamespace(optimizers=optimizers, step=step)
        metrics = {"generators/cycle_a": loss - 1, "generators/cycle_b": 1.0, "discriminators/a": 9}
        rate = learning_rate(state, model)
        return watch_plateau(optimizers, metrics, model), rate

    optimizers = {"plateau": schedule.reducer.init({"x": jnp.zeros(())})}
    random = np.random.default_rng(0)
    reduced = set()
    for epoch, mean in enumerate(PLATEAU_LOSSES):
        optimizer.step()
        expected = scheduler.get_last_lr()[0]
        reduced.add(expected)
        losses = mean + random.permutation(np.linspace(-1, 1, updates))
        for i, loss in enumerate(losses):
            optimizers, rate = update(optimizers, epoch * updates + i, loss)
            np.testing.assert_allclose(rate, expected, rtol=1e-5)
        scheduler.step(mean)
    assert len(reduced) == 8  # 2e-4 and seven reductions, after which PyTorch stops


def test_plateau_in_a_run():
    """The rates of a run are those of PyTorch's scheduler, given the losses of the run."""
    torch = pytest.importorskip("torch")
    config = tiny.get_config()
    config.batch_size = 1
    config.optimizer.learning_rate = 1e-6
    config.schedule.name = "plateau"
    pairs = 2
    model = build_model(config, pairs)
    step = compile_step(model)
    state = start_state(config)
    plateau = model.schedule.reducer.init(state.params)
    state = state.replace(optimizers=state.optimizers | {"plateau": plateau})
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1e-6)
    scheduler = published_plateau(optimizer)
    batches = noise_batches(pairs, batch_size=1)
    rates = []
    for _ in range(16):
        losses = []
        optimizer.step()
        for batch in batches:
            state, metrics = step(state, batch)
            rates.append(float(metrics["learning_rate"]))
            np.testing.assert_allclose(rates[-1], scheduler.get_last_lr()[0], rtol=1e-5)
            terms = [v for k, v in metrics.items() if k.startswith("generators/")]
            losses.append(sum(map(float, terms)))
        scheduler.step(np.mean(losses))
    np.testing.assert_allclose([rates[0], rates[-1]], [1e-6, 4e-8], rtol=1e-5)


@pytest.mark.parametrize("name", ["constant", "linear_per_update", "plateau", f"{__name__}:halved"])
def test_stepped_first_of_other_schedules_is_refused(name):
    """The error has the option and the schedule, which may be a user's own."""
    config = default.get_config()
    config.schedule.name = name
    assert factor_at(config, 0) == pytest.approx(0.5 if ":" in name else 1)
    config.schedule.stepped_first = True
    message = f"schedule.stepped_first: expected False, since schedule.name={name} does not"
    with pytest.raises(UserError, match=message):
        build_schedule(config, PAIRS)


def halved(time):
    """A schedule of a user's own, whose parameter has a name of its own, too."""
    return lambda step: time.learning_rate / 2


@pytest.mark.parametrize("batch_size", [1, 4])
def test_linear_per_update(batch_size):
    """After 101 full epochs the rate falls by the same amount after every update of 99 epochs."""
    config = default.get_config()
    config.batch_size = batch_size
    config.schedule.update(
        {"name": "linear_per_update", "constant_epochs": 101, "decay_epochs": 99}
    )
    pairs = 12
    updates = pairs // batch_size
    with jax.enable_x64(True):
        schedule = build_schedule(config, pairs)
        rates = [float(schedule(jnp.int32(step))) for step in range(200 * updates + 3)]
    expected, rate = [], 2e-4
    for epoch in range(1, 201):
        for _ in range(updates):
            expected.append(rate)
            if epoch > 101:
                rate -= 2e-4 / (99 * updates)
    np.testing.assert_allclose(rates, [*expected, 0, 0, 0], rtol=1e-9, atol=1e-16)


def test_linear_per_update_without_decay():
    """Without epochs of decay the rate stays full, and the last update is no exception."""
    config = default.get_config()
    config.schedule.update({"name": "linear_per_update", "constant_epochs": 2, "decay_epochs": 0})
    assert [factor_at(config, 1, update) for update in range(PAIRS)] == pytest.approx([1] * PAIRS)


def test_constant():
    """The full rate is kept forever."""
    config = default.get_config()
    config.schedule.name = "constant"
    assert factor_at(config, 1000) == pytest.approx(1)


def test_epochs_count_pairs_not_updates():
    """With batches of 4 and 10 pairs, update 2 ends the first epoch: its pairs are 8 to 11."""
    config = default.get_config()
    config.batch_size = 4
    config.schedule.name = "step"
    config.schedule.step_epochs = 1
    factors = [factor_at(config, 0, step) for step in range(6)]
    # Updates start with pair 0, 4, 8, 12, 16, 20.
    np.testing.assert_allclose(factors, [1, 1, 1, 0.1, 0.1, 0.01], rtol=1e-6)


def test_long_runs_do_not_overflow():
    """The number of pairs in 32 bits would overflow after 67 million updates of 32 pairs."""
    config = default.get_config()
    config.batch_size = 32
    config.schedule.constant_epochs = 10**9
    config.schedule.decay_epochs = 0
    assert factor_at(config, 0, 2 * 10**8) == pytest.approx(1)


@pytest.mark.parametrize(
    ("batch_size", "num_steps", "expected"), [(1, None, 2000), (3, None, 667), (1, 60, 60)]
)
def test_run_length(batch_size, num_steps, expected):
    """A run has 200 epochs of 10 pairs, rounded up to whole updates, unless num_steps is set."""
    config = default.get_config()
    config.batch_size = batch_size
    config.num_steps = num_steps
    assert run_length(config, PAIRS) == expected


def test_more_updates_than_the_state_counts():
    """The message names the epochs and the pairs."""
    config = default.get_config()
    config.schedule.constant_epochs, config.schedule.decay_epochs = 10**6, 0
    with pytest.raises(UserError, match="1,000,000 epochs of 6,000 pairs"):
        run_length(config, 6000)
    assert run_length(config, 600) == 6 * 10**8
