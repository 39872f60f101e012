"""Turn a configuration into the objects that it describes.

Below this module no function takes a whole configuration.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cyclegan_jax.distributed import batch_axis
from cyclegan_jax.losses import (
    ADVERSARIAL_LOSSES,
    EXTRA_LOSSES,
    AdversarialLoss,
    ExtraLoss,
    Losses,
)
from cyclegan_jax.models.discriminators import DISCRIMINATORS, MultiScaleDiscriminator
from cyclegan_jax.models.generators import GENERATORS
from cyclegan_jax.models.layers import LayerConfig
from cyclegan_jax.models.protocol import check_discriminator_size, check_generator_size
from cyclegan_jax.ops import Form
from cyclegan_jax.optimizers import OPTIMIZERS
from cyclegan_jax.schedules import SCHEDULES, ReducedOnPlateau, Timeline, total_steps
from cyclegan_jax.state import Networks, TrainState, create_state
from cyclegan_jax.step import CycleGAN
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.registry import build, lookup

# Terms of the generators' loss, which extra losses must not be called.
_TERMS = ("adversarial_ab", "adversarial_ba", "cycle_a", "cycle_b", "identity_a", "identity_b")
# Forms of the operations for `kernels`; None for that of the backend.
KERNELS: dict[str, Form | None] = {"xla": None, "triton": "triton"}
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}


def build_networks(config: Any, axis_name: str | None = None) -> Networks:
    """Build the four networks; nothing is computed.

    Args:
        config: See `default_config.py`.
        axis_name: The device axis over which training batches are sharded, for batch norm.
    """

    def layers(norm: str) -> LayerConfig:
        dtype = PRECISIONS[config.precision]
        return LayerConfig(norm, config.init.name, config.init.gain, dtype, axis_name)

    def generator(channels: int) -> Any:
        g = config.generator
        return build(
            "generator",
            g.variant,
            lookup("generator.variant", g.variant, GENERATORS),
            channels=channels,
            config=layers(g.norm),
            optional={
                "width": (g.width, 64),
                "dropout": (g.dropout, 0.0),
                "remat": (g.remat, False),
                **({} if g.blocks is None else {"blocks": (g.blocks, None)}),
            },
        )

    def discriminator() -> Any:
        d = config.discriminator
        entry = lookup("discriminator.variant", d.variant, DISCRIMINATORS)
        scales = tuple(
            build(
                "discriminator",
                d.variant,
                entry,
                config=layers(d.norm),
                optional={
                    "width": (d.width, 64),
                    "layers": (d.layers, 3),
                    "sigmoid": (d.sigmoid, False),
                },
            )
            for _ in range(d.scales)
        )
        return scales[0] if d.scales == 1 else MultiScaleDiscriminator(scales)

    return Networks(
        gen_ab=generator(config.data.channels_b),
        gen_ba=generator(config.data.channels_a),
        disc_a=discriminator(),
        disc_b=discriminator(),
    )


def build_adversarial_loss(config: Any) -> AdversarialLoss:
    """Build the adversarial loss that `loss.mode` names."""
    entry = lookup("loss.mode", config.loss.mode, ADVERSARIAL_LOSSES)
    optional = {"real_label": (config.loss.real_label, 1.0)}
    return build("loss", config.loss.mode, entry, optional=optional)


def build_losses(config: Any) -> Losses:
    """Build the losses and their weights."""
    weights = config.loss
    extra: dict[str, ExtraLoss] = {}
    for name in filter(None, (part.strip() for part in weights.extra.split(","))):
        term = name.rpartition(":")[2]
        if term in extra or term in _TERMS:
            raise UserError(f"loss.extra={weights.extra}: {term} is the name of another loss")
        extra[term] = lookup("loss.extra", name, EXTRA_LOSSES)()
    adversarial = build_adversarial_loss(config)
    if config.discriminator_steps == "real_then_fake" and adversarial.parts is None:
        raise UserError(
            f"discriminator_steps: expected joint, since {weights.mode} does not support steps on "
            "real and on generated images, got real_then_fake"
        )
    return Losses(
        adversarial=adversarial,
        adversarial_weight=weights.adversarial,
        cycle_a=weights.cycle_a,
        cycle_b=weights.cycle_b,
        identity=weights.identity,
        identity_every_steps=weights.identity_every_steps,
        identity_separate=weights.identity_step == "separate",
        gradient_penalty=weights.gradient_penalty,
        extra=extra,
    )


def run_length(config: Any, pairs_per_epoch: int) -> int:
    """Return the number of updates in the whole run."""
    epochs = config.schedule.constant_epochs + config.schedule.decay_epochs
    return total_steps(
        config.num_steps,
        epochs=epochs,
        pairs_per_epoch=pairs_per_epoch,
        batch_size=config.batch_size,
    )


def build_schedule(config: Any, pairs_per_epoch: int) -> optax.Schedule:
    """Build the learning-rate schedule that `schedule.name` names."""
    s = config.schedule
    timeline = Timeline(
        learning_rate=config.optimizer.learning_rate,
        batch_size=config.batch_size,
        pairs_per_epoch=pairs_per_epoch,
        constant_epochs=s.constant_epochs,
        decay_epochs=s.decay_epochs,
        step_epochs=s.step_epochs,
        num_steps=run_length(config, pairs_per_epoch),
    )
    entry = functools.partial(lookup("schedule.name", s.name, SCHEDULES), timeline)
    optional = {"stepped_first": (s.stepped_first, False)}
    return build("schedule", f"schedule.name={s.name}", entry, optional=optional)


def build_model(config: Any, pairs_per_epoch: int, devices: int | None = None) -> CycleGAN:
    """Build everything that `train_step` needs.

    Args:
        config: See `default_config.py`.
        pairs_per_epoch: Pairs per epoch of the learning-rate schedule.
        devices: As in `distributed.compile_step`.
    """
    axis_name = batch_axis(devices)
    networks = build_networks(config, axis_name)
    micro_batches = config.micro_batches
    if micro_batches is None:
        # On CPUs pairs one by one are fastest: their activations stay in the caches.
        mixes_images = any(network.mixes_images for network in networks)
        one_by_one = jax.default_backend() == "cpu" and not mixes_images
        micro_batches = None if one_by_one else 1

    return CycleGAN(
        networks=networks,
        losses=build_losses(config),
        schedule=build_schedule(config, pairs_per_epoch),
        optimizers=build_optimizers(config),
        dtype=image_dtype(config),
        update_first=config.update_first,
        generator_updates=config.generator_updates,
        discriminator_updates=config.discriminator_updates,
        real_then_fake=config.discriminator_steps == "real_then_fake",
        updates_per_epoch=max(1, pairs_per_epoch // config.batch_size),
        micro_batches=micro_batches,
        average_decay=config.average_decay,
        axis_name=axis_name,
        form=KERNELS[config.kernels],
    )


def build_optimizers(config: Any) -> dict[str, Callable[[Any], optax.GradientTransformation]]:
    """Build the optimisers as functions of the learning rate, which may be a traced scalar."""
    o = config.optimizer
    entry = lookup("optimizer.name", o.name, OPTIMIZERS)

    def optimizer(joint: bool, learning_rate: Any) -> optax.GradientTransformation:
        return build(
            "optimizer",
            o.name,
            entry,
            optional={
                "b1": (o.beta1, 0.5),
                "b2": (o.beta2, 0.999),
                "joint": (joint, joint),
            },
            learning_rate=learning_rate,
        )

    optimizer(True, 0.0)  # an unsupported option is refused now, not when the update is traced

    sides = {"generators": True, "discriminators": False}
    if config.loss.identity and config.loss.identity_step == "separate":
        sides["identity"] = False
    return {side: functools.partial(optimizer, joint) for side, joint in sides.items()}


def image_dtype(config: Any) -> Any:
    """Return the type of images and losses: float32, or float64 for `precision=float64`."""
    return jnp.promote_types(PRECISIONS[config.precision], jnp.float32)


def build_state(config: Any, image_size: tuple[int, int]) -> TrainState:
    """Create the state at step 0.

    Args:
        config: See `default_config.py`.
        image_size: (height, width) of training images.
    """
    optimizers = {side: optimizer(0.0) for side, optimizer in build_optimizers(config).items()}
    schedule = build_schedule(config, pairs_per_epoch=1)
    if isinstance(schedule, ReducedOnPlateau):
        optimizers["plateau"] = schedule.reducer
    return create_state(
        build_networks(config),
        optimizers,
        seed=config.seed,
        image_shapes={
            "a": (*image_size, config.data.channels_a),
            "b": (*image_size, config.data.channels_b),
        },
        pool_size=config.pool_size,
        average=config.average_decay > 0,
        dtype=image_dtype(config),
    )


def check_image_size(networks: Networks, height: int, width: int) -> None:
    """Raise UserError unless all four networks take training images of this size."""
    try:
        check_generator_size(networks.gen_ab, height, width)
        check_discriminator_size(networks.disc_a, height, width)
    except UserError as error:
        raise UserError(
            f"{error}; see data.transform, data.crop_size and data.crop_width"
        ) from None
