"""What the networks minimise: the losses of both sides on one batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cyclegan_jax import losses
from cyclegan_jax.models import layers
from cyclegan_jax.state import Networks, Params

Array = jax.Array
Metrics = dict[str, Array]
Batch = dict[str, Any]


def generator_loss(
    networks: Networks,
    params: Params,
    real: Batch,
    dropout_key: Array,
    config: Any,
    step: Array | int = 0,
) -> tuple[Array, tuple[Metrics, Batch]]:
    """What both generators minimise together.

    Args:
        networks: the four modules.
        params: of all four networks; gradients are taken by those of the generators.
        real: {a, b}, float [B, H, W, C] in [-1, 1].
        dropout_key: for the masks, where a generator has dropout.
        config: weights in `config.loss`.
        step: updates done before; identity counts where `identity_every_steps` divides it.

    Returns:
        The weighted sum, and (its terms by name, the fakes {a, b}).
    """
    weights = config.loss
    apply = _applier(networks, params, dropout_key)
    always = weights.identity > 0 and weights.identity_every_steps == 1
    if always:
        fake_b, identity_b = apply("gen_ab", real["a"], real["b"])
        fake_a, identity_a = apply("gen_ba", real["b"], real["a"])
    else:
        (fake_b,), (fake_a,) = apply("gen_ab", real["a"]), apply("gen_ba", real["b"])
    (cycled_a,), (cycled_b,) = apply("gen_ba", fake_b, first=2), apply("gen_ab", fake_a, first=2)
    (scores_a,), (scores_b,) = apply("disc_a", fake_a), apply("disc_b", fake_b)

    def adversarial(scores: Any) -> Array:
        return losses.adversarial(scores, True, weights.mode, weights.real_label)

    def identity_terms(identity_a: Array, identity_b: Array) -> Metrics:
        distance_a = losses.absolute_difference(identity_a, real["a"])
        distance_b = losses.absolute_difference(identity_b, real["b"])
        return {
            "identity_a": weights.identity * weights.cycle_a * distance_a,
            "identity_b": weights.identity * weights.cycle_b * distance_b,
        }

    def identity_apart() -> Metrics:
        (identity_b,) = apply("gen_ab", real["b"], first=1)
        (identity_a,) = apply("gen_ba", real["a"], first=1)
        return identity_terms(identity_a, identity_b)

    terms = {
        "adversarial_ab": weights.adversarial * adversarial(scores_b),
        "adversarial_ba": weights.adversarial * adversarial(scores_a),
        "cycle_a": weights.cycle_a * losses.absolute_difference(cycled_a, real["a"]),
        "cycle_b": weights.cycle_b * losses.absolute_difference(cycled_b, real["b"]),
    }
    if always:
        terms |= identity_terms(identity_a, identity_b)
    elif weights.identity > 0:
        terms |= jax.lax.cond(
            step % weights.identity_every_steps == 0,
            identity_apart,
            lambda: dict.fromkeys(("identity_a", "identity_b"), jnp.zeros((), real["a"].dtype)),
        )
    return sum(terms.values(), jnp.zeros(())), (terms, {"a": fake_a, "b": fake_b})


def discriminator_loss(
    networks: Networks, params: Params, real: Batch, shown: Batch, penalty_key: Array, config: Any
) -> Metrics:
    """What each discriminator minimises: {a, b}, half of real plus half of generated.

    Args:
        networks: the four modules.
        params: of disc_a and disc_b.
        real: {a, b}, float [B, H, W, C] in [-1, 1].
        shown: {a, b}, generated images of the same shapes.
        penalty_key: for the points of wgangp's gradient penalty.
        config: mode and weights in `config.loss`.
    """
    mode = config.loss.mode
    apply = _applier(networks, params)
    terms = {}
    for i, domain in enumerate(("a", "b")):
        name = f"disc_{domain}"
        on_real, on_fake = apply(name, real[domain], shown[domain])
        terms[domain] = 0.5 * (
            losses.adversarial(on_real, True, mode, config.loss.real_label)
            + losses.adversarial(on_fake, False, mode)
        )
        if mode == "wgangp":
            mix = layers.draw_for_batch(
                functools.partial(jax.random.uniform, jax.random.fold_in(penalty_key, i)),
                real[domain].shape[:1],
                getattr(networks, name).style.share,
            )
            penalty = losses.gradient_penalty(
                functools.partial(_only, apply, name), real[domain], shown[domain], mix
            )
            terms[domain] += config.loss.gradient_penalty * penalty
    return terms


def _applier(
    networks: Networks, params: Params, dropout_key: Array | None = None
) -> Callable[..., list[Any]]:
    """A function (network's name, batches of images) -> the outputs for each batch.

    Where a network treats every image by itself, all go through it in one call: the same result
    from fewer and larger operations. `first` numbers the batches, so that dropout differs.
    """

    def apply(name: str, *batches: Array, first: int = 0) -> list[Any]:
        network = getattr(networks, name)
        if len(batches) > 1 and not network.mixes_images:
            joined = network.apply({"params": params[name]}, jnp.concatenate(batches))
            return [_rows(joined, i, len(x)) for i, x in enumerate(batches)]
        outputs = []
        for i, x in enumerate(batches, first):
            rngs = None
            if dropout_key is not None:
                number = Networks._fields.index(name) + 4 * i
                rngs = {"dropout": jax.random.fold_in(dropout_key, number)}
            outputs.append(network.apply({"params": params[name]}, x, rngs=rngs))
        return outputs

    return apply


def _rows(tree: Any, i: int, size: int) -> Any:
    """The i-th batch of this size in arrays that hold several."""
    return jax.tree.map(lambda y: y[i * size : (i + 1) * size], tree)


def _only(apply: Callable[..., list[Any]], name: str, x: Array) -> Any:
    return apply(name, x)[0]


def generate(networks: Networks, params: Params, real: Batch, dropout_key: Array) -> Batch:
    """The fakes {a, b} that `generator_loss` makes with the same key."""
    apply = _applier(networks, params, dropout_key)
    (fake_b,), (fake_a,) = apply("gen_ab", real["a"]), apply("gen_ba", real["b"])
    return {"a": fake_a, "b": fake_b}
