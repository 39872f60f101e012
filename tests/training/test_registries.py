"""Names that select entries of registries, and the options that an entry supports."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cyclegan_jax import config as config_lib
from cyclegan_jax import training
from cyclegan_jax.build import build_model, build_networks, build_state
from cyclegan_jax.inference.tiling import check_tiling
from cyclegan_jax.inference.translator import Network, Translator
from cyclegan_jax.losses import ADVERSARIAL_LOSSES
from cyclegan_jax.models.discriminators import DISCRIMINATORS
from cyclegan_jax.models.generators import GENERATORS
from cyclegan_jax.models.layers import INITIALIZERS, NORMS, LayerConfig
from cyclegan_jax.optimizers import OPTIMIZERS
from cyclegan_jax.schedules import SCHEDULES
from cyclegan_jax.step import train_step
from cyclegan_jax.utils.errors import UserError
from tests import short
from tests.refused_runs import refusal
from tests.smallest import SIZE

# {field: (registry, attribute of `USER_MODULE`)}.
FIELDS = {
    "loss.mode": (ADVERSARIAL_LOSSES, "hinge"),
    "schedule.name": (SCHEDULES, "halving"),
    "generator.variant": (GENERATORS, "OneLayer"),
    "discriminator.variant": (DISCRIMINATORS, "Edges"),
    "generator.norm": (NORMS, "Rescale"),
    "discriminator.norm": (NORMS, "Rescale"),
    "init.name": (INITIALIZERS, "sparse"),
    "loss.extra": ({}, "total_variation"),
    "optimizer.name": (OPTIMIZERS, "descent"),
}

USER_MODULE = '''
"""A user's own file."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from cyclegan_jax.losses import AdversarialLoss, ExtraLoss
from cyclegan_jax.models.layers import Conv, Initializer
from cyclegan_jax.models.protocol import Discriminator, Generator


def hinge():
    return AdversarialLoss(
        generator=lambda fake: -fake.mean(),
        discriminator=lambda real, fake: nn.relu(1 - real).mean() + nn.relu(1 + fake).mean(),
    )


def halving(timeline):
    return optax.exponential_decay(timeline.learning_rate, timeline.pairs_per_epoch, 0.5)


class OneLayer(Generator):
    config: object

    @nn.compact
    def __call__(self, x, keys=None):
        y = Conv(self.channels, 3, self.config, padding=1, normed=True, name="only")(x)
        return jnp.tanh(self.config.build_norm(name="norm")(y))


class Edges(Discriminator):
    config: object
    smallest = 8

    @nn.compact
    def __call__(self, x):
        y = Conv(4, 3, self.config, normed=True, name="first")(x)
        y = self.config.build_norm(name="norm")(y)
        return Conv(1, 3, self.config, name="last")(y)


rescaled_channels = set()


class Rescale(nn.Module):
    config: object
    keeps_bias = True
    removes_bias = False
    mixes_images = False

    @nn.compact
    def __call__(self, x):
        rescaled_channels.add(x.shape[-1])
        return x / (1e-3 + jnp.abs(x).mean((1, 2), keepdims=True))


def sparse(gain, transposed):
    def init(key, shape, dtype):
        return gain * jax.random.bernoulli(key, 0.5, shape).astype(dtype)

    return Initializer(init)


def descent(learning_rate):
    return optax.sgd(learning_rate)


def total_variation():
    def loss(passes, frozen, networks):
        return 0.5 * jnp.abs(passes.fake_b[:, 1:] - passes.fake_b[:, :-1]).mean()

    return ExtraLoss(loss)
'''


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """The name of an importable module that is not ours."""
    name = f"user_module_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def set_field(config, field, value):
    *path, last = field.split(".")
    setattr(functools.reduce(getattr, path, config), last, value)
    return config


def unset_options(config):
    """Set options of the networks, which not all of them take, to their defaults."""
    config.generator.blocks, config.generator.width = None, 64
    config.discriminator.layers, config.discriminator.width = 3, 64
    return config


def refused(call, *args):
    """Return the one-line message of the UserError that a call raises."""
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_registries_but_those_of_the_data_are_tested():
    fields = {field for field in config_lib.REGISTRIES if not field.startswith("data.")}
    assert fields == set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_unknown_names_are_refused(config, tmp_path, monkeypatch, field):
    """The message lists the names, and comes before anything is read, written or compiled."""

    def fail(*_, **__):
        raise AssertionError("the run started")

    monkeypatch.setattr(training, "check_workdir", fail)
    monkeypatch.setattr(training.data, "open_sources", fail)
    set_field(config, field, "nonsense")
    message = refusal(config, tmp_path / "run")
    names = ", ".join(FIELDS[field][0])
    assert message == (
        f"config.{field}: expected one of {names}, or package.module:attribute, got 'nonsense'"
        if names
        else f"config.{field}: expected package.module:attribute, got 'nonsense'"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_module:hinge", "No module named 'no_such_module'"),
        ("cyclegan_jax.losses:hinge", "has no attribute 'hinge'"),
        (":hinge", "Empty module name"),
    ],
)
def test_names_that_cannot_be_imported_are_refused(config, tmp_path, name, reason):
    """The message names the field and the reason."""
    config.loss.mode = name
    message = refusal(config, tmp_path / "run")
    assert message.startswith(f"config.loss.mode={name}: cannot be imported (")
    assert reason in message


def of_another_kind(*, unrelated: int) -> None:
    """Take none of the arguments that entries of registries are called with."""


@pytest.mark.parametrize("field", config_lib.REGISTRIES)
def test_a_function_of_another_kind_is_refused(config, tmp_path, field):
    """The message names the field, and nothing is trained."""
    set_field(config, field, f"{__name__}:of_another_kind")
    unset_options(config)
    message = refusal(config, tmp_path / "run")
    assert f"{field.split('.')[-1]}={__name__}:of_another_kind: expected a function" in message
    assert "(*, unrelated)" in message
    assert not list(tmp_path.rglob("config.json"))


def test_a_run_of_a_users_own_parts(user_module, tmp_path):
    """Each field accepts module:attribute; a run with all of them trains, resumes and translates.

    Each part is used where it belongs.
    """
    config = unset_options(short.get_config())
    for field, (_, attribute) in FIELDS.items():
        set_field(config, field, f"{user_module}:{attribute}")
    config.num_steps = 2
    first = training.train(config, tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert "generators/total_variation" in events.Tags()["tensors"]
    model = build_model(config, 12)
    np.testing.assert_allclose(model.schedule(12), 0.5 * config.optimizer.learning_rate)
    assert float(model.losses.adversarial.discriminator(jnp.zeros(1), jnp.zeros(1))) == 2
    assert set(first.params["gen_ab"]) == {"only"}
    assert set(first.params["disc_a"]) == {"first", "last"}
    # The norm keeps biases, and is that of generators and discriminators.
    assert "bias" in first.params["gen_ab"]["only"]
    assert importlib.import_module(user_module).rescaled_channels == {3, 4}
    kernel = build_state(config, SIZE).params["gen_ab"]["only"]["kernel"]
    assert set(np.unique(kernel)) == {np.float32(0), np.float32(config.init.gain)}
    config.num_steps = 3
    assert int(training.train(config, tmp_path / "run").step) == 3
    assert Translator.load(tmp_path / "run")(np.zeros((7, 9, 3), np.uint8)).shape == (7, 9, 3)


@pytest.mark.parametrize(
    ("field", "value", "default"),
    [
        ("generator.remat", True, False),
        ("generator.blocks", 4, None),
        ("generator.dropout", 0.5, 0.0),
    ],
)
def test_unsupported_options_of_a_generator_are_refused(
    config, user_module, tmp_path, field, value, default
):
    """An option that the generator does not take is refused by name when it is set."""
    name = f"{user_module}:OneLayer"
    unset_options(config).generator.variant = name
    build_networks(config)
    set_field(config, field, value)
    message = refusal(config, tmp_path / "run")
    assert message == (
        f"{field}: expected {default}, since {name} does not support the option, got {value}"
    )


def test_unsupported_options_of_a_discriminator_are_refused(config, user_module):
    """An option that the discriminator does not take is refused by name when it is set."""
    name = f"{user_module}:Edges"
    unset_options(config).discriminator.variant = name
    build_networks(config)
    config.discriminator.layers = 2
    assert refused(build_networks, config) == (
        f"discriminator.layers: expected 3, since {name} does not support the option, got 2"
    )


def test_unsupported_options_of_published_networks_are_refused(config):
    """U-Nets have no blocks, and wgangp has no label."""
    config.generator.variant = "unet128"
    message = refused(build_networks, config)
    assert message.startswith("generator.blocks: expected None, since unet128 does not support")
    config.generator.blocks = None
    config.loss.mode, config.loss.real_label = "wgangp", 0.9
    message = refused(build_model, config, 4)
    assert message.startswith("loss.real_label: expected 1.0, since wgangp does not support")


def test_optimisers_without_moments(config):
    """Optax's own functions are accepted; decays that they lack are refused when they are set."""
    config.optimizer.name = "optax:sgd"
    config.loss.identity_step = "separate"
    model = build_model(config, 4)
    state = jax.eval_shape(lambda: build_state(config, SIZE))
    batch = {d: np.zeros((1, *SIZE, 3), np.uint8) for d in ("a", "b")}
    jax.eval_shape(functools.partial(train_step, model=model), state, batch)
    config.optimizer.beta1 = 0.9
    message = refused(build_model, config, 4)
    assert message.startswith("optimizer.b1: expected 0.5, since optax:sgd does not support")


def test_generators_without_forward_are_refused_where_it_is_needed(user_module):
    """Tiling and the ONNX export name the class, and what they expect."""
    from cyclegan_jax.export.onnx_graph import build_model as build_graph
    from cyclegan_jax.utils.registry import lookup

    generator = lookup("generator.variant", f"{user_module}:OneLayer", GENERATORS)(
        channels=3, config=LayerConfig(norm="none")
    )
    params = generator.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    network = Network(generator, params, 3)
    assert "OneLayer does not support tiling" in refused(check_tiling, generator, 64)
    assert "OneLayer does not support tiling" in refused(
        functools.partial(Translator, tile=64), network, network, 0
    )
    assert "OneLayer does not support it" in refused(build_graph, network, {})


def test_norms_of_a_users_own_are_refused_where_they_are_unknown(user_module):
    """Tiling and the ONNX export, which compute norms in their own way, name the norm."""
    from cyclegan_jax.export.onnx_graph import build_model as build_graph

    config = LayerConfig(norm=f"{user_module}:Rescale")
    generator = GENERATORS["resnet3"](channels=3, width=2, config=config)
    params = generator.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    assert "Rescale does not support tiling" in refused(check_tiling, generator, 64)
    assert "Rescale does not support it" in refused(build_graph, Network(generator, params, 3), {})
