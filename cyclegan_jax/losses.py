"""The losses of CycleGAN (Zhu et al. 2017, arXiv:1703.10593) as pure functions.

`generator_loss` and `discriminator_loss` are the two objectives of the update. The adversarial
losses they use are entries of `ADVERSARIAL_LOSSES`; `loss.extra` adds further generator losses.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cyclegan_jax.models.bound import BoundNetwork
from cyclegan_jax.models.layers import fold_in

Array = jax.Array
Params = Any
Metrics = dict[str, Array]
Images = dict[str, Array]  # {a, b}, each float [B, H, W, C] in [-1, 1]


class AdversarialLoss(NamedTuple):
    """An adversarial loss: a pair of functions of scores, each a scalar mean.

    Attributes:
        generator: scores of generated images -> loss of the generator.
        discriminator: (scores of real images, scores of generated images) -> loss of the
            discriminator: the sum of both parts, which `discriminator_loss` halves.
        gradient_penalty: (discriminate, real, generated, keys) -> a term that the discriminator's
            loss adds with the weight `loss.gradient_penalty`; see `gradient_penalty`.
        bounded: Whether scores in (0, 1), of `discriminator.sigmoid`, are meaningful.
        parts: The terms of real and of generated images, where `discriminator` is their sum; for
            `discriminator_steps=real_then_fake`.
    """

    generator: Callable[[Array], Array]
    discriminator: Callable[[Array, Array], Array]
    gradient_penalty: Callable[..., Array] | None = None
    bounded: bool = False
    parts: tuple[Callable[[Array], Array], Callable[[Array], Array]] | None = None

    @classmethod
    def sum_of(
        cls,
        generator: Callable[[Array], Array],
        real: Callable[[Array], Array],
        fake: Callable[[Array], Array],
        **fields: Any,
    ) -> "AdversarialLoss":
        """Build a loss whose discriminator's part is a sum of two terms."""
        return cls(generator, lambda r, f: real(r) + fake(f), parts=(real, fake), **fields)


def lsgan(real_label: float = 1.0) -> AdversarialLoss:
    """Least squares to the labels 1 and 0 (Mao et al. 2017), the loss of the published CycleGAN.

    Args:
        real_label: Label of real images; below 1 it is a soft label (Salimans et al. 2016).
    """

    def distance(scores: Array, label: float) -> Array:
        return jnp.mean(jnp.square(scores - label))

    return AdversarialLoss.sum_of(
        generator=lambda fake: distance(fake, real_label),
        real=lambda real: distance(real, real_label),
        fake=lambda fake: distance(fake, 0.0),
        bounded=True,
    )


def vanilla(real_label: float = 1.0) -> AdversarialLoss:
    """Cross-entropy of scores as logits (Goodfellow et al. 2014, non-saturating).

    Args:
        real_label: As in `lsgan`.
    """

    def entropy(scores: Array, label: float) -> Array:
        labels = jnp.full_like(scores, label)
        return jnp.mean(optax.sigmoid_binary_cross_entropy(scores, labels))

    return AdversarialLoss.sum_of(
        generator=lambda fake: entropy(fake, real_label),
        real=lambda real: entropy(real, real_label),
        fake=lambda fake: entropy(fake, 0.0),
    )


def wgangp() -> AdversarialLoss:
    """Wasserstein distance with gradient penalty (Gulrajani et al. 2017)."""
    return AdversarialLoss(
        generator=lambda fake: -jnp.mean(fake),
        discriminator=lambda real, fake: jnp.mean(fake) - jnp.mean(real),
        gradient_penalty=gradient_penalty,
    )


# Adversarial losses by name. An entry is called with `real_label` if it takes it.
ADVERSARIAL_LOSSES: dict[str, Callable[..., AdversarialLoss]] = {
    "lsgan": lsgan,
    "vanilla": vanilla,
    "wgangp": wgangp,
}


class Passes(NamedTuple):
    """Real images and the results of the six generator passes, float [B, H, W, C] in [-1, 1].

    `identity_a` and `identity_b` are None where the identity loss has no weight.
    """

    real_a: Array
    real_b: Array
    fake_a: Array
    fake_b: Array
    cycled_a: Array
    cycled_b: Array
    identity_a: Array | None
    identity_b: Array | None


class ExtraLoss(NamedTuple):
    """A further loss of the generators, such as a perceptual loss.

    Attributes:
        loss: (passes, frozen, networks) -> weighted scalar. `networks` is {name: `BoundNetwork`}
            of all four, for example to compute `networks["gen_ab"].features(...)`.
        frozen: Tree of parameters that are not trained; `loss` is given it as `frozen`.
    """

    loss: Callable[[Passes, Any, dict[str, BoundNetwork]], Array]
    frozen: Any = None


# Further generator losses by name: functions without arguments that return an `ExtraLoss`.
EXTRA_LOSSES: dict[str, Callable[[], ExtraLoss]] = {}


@dataclass(frozen=True)
class Losses:
    """The losses of a run and their weights.

    Attributes:
        adversarial: The adversarial loss.
        adversarial_weight: Its weight for the generators.
        cycle_a: Weight of the cycle A -> B -> A.
        cycle_b: Weight of the cycle B -> A -> B.
        identity: Weight of the identity loss, relative to the cycle's; 0 leaves it out.
        identity_every_steps: The identity loss counts in every n-th update only.
        identity_separate: Whether `generator_loss` leaves the identity loss to a step of its own.
        gradient_penalty: Weight of the adversarial loss's gradient penalty, if it has one.
        extra: {name: further generator loss}.
    """

    adversarial: AdversarialLoss
    adversarial_weight: float = 1.0
    cycle_a: float = 10.0
    cycle_b: float = 10.0
    identity: float = 0.5
    identity_every_steps: int = 1
    identity_separate: bool = False
    gradient_penalty: float = 10.0
    extra: dict[str, ExtraLoss] = field(default_factory=dict)

    @property
    def frozen(self) -> dict[str, Any]:
        """{name: frozen parameters} of the extra losses, an argument of the update."""
        return {name: extra.frozen for name, extra in self.extra.items()}


def generator_loss(
    generators: Params,
    discriminators: Params,
    frozen: dict[str, Any],
    step: Array,
    real: Images,
    keys: Array,
    *,
    networks: Any,
    losses: Losses,
) -> tuple[Array, tuple[Metrics, Images]]:
    """Compute the objective of both generators, equation 3 of the paper and the identity loss.

    Args:
        generators: {gen_ab, gen_ba}, the parameters that are trained.
        discriminators: {disc_a, disc_b}.
        frozen: `losses.frozen`.
        step: Number of updates done before this one.
        real: Images of both domains.
        keys: [B], a PRNG key for each pair.
        networks: The four modules.
        losses: The losses and their weights.

    Returns:
        The weighted sum, and (its terms by name, the fakes).
    """
    gen_ab = BoundNetwork(networks.gen_ab, generators["gen_ab"], fold_in(keys, 0))
    gen_ba = BoundNetwork(networks.gen_ba, generators["gen_ba"], fold_in(keys, 1))
    disc_a = BoundNetwork(networks.disc_a, discriminators["disc_a"])
    disc_b = BoundNetwork(networks.disc_b, discriminators["disc_b"])
    real_a, real_b = real["a"], real["b"]
    identity_a = identity_b = None

    with_identity = losses.identity and not losses.identity_separate
    if with_identity and losses.identity_every_steps == 1:
        fake_b, identity_b = gen_ab(real_a, real_b)
        fake_a, identity_a = gen_ba(real_b, real_a)
    else:
        fake_b, fake_a = gen_ab(real_a), gen_ba(real_b)
    cycled_a, cycled_b = gen_ba(fake_b), gen_ab(fake_a)
    if with_identity and losses.identity_every_steps > 1:
        identity_a, identity_b = jax.lax.cond(
            step % losses.identity_every_steps == 0,
            lambda: (gen_ba(real_a), gen_ab(real_b)),
            lambda: (real_a, real_b),  # at no distance from themselves
        )

    # Equation 1: the discriminators should take the fakes for real.
    adversarial = losses.adversarial.generator
    terms = {
        "adversarial_ab": losses.adversarial_weight * sum_over_scales(adversarial, disc_b(fake_b)),
        "adversarial_ba": losses.adversarial_weight * sum_over_scales(adversarial, disc_a(fake_a)),
        # Equation 2: what returns to its domain is what left it.
        "cycle_a": losses.cycle_a * l1(cycled_a, real_a),
        "cycle_b": losses.cycle_b * l1(cycled_b, real_b),
    }
    if identity_a is not None and identity_b is not None:
        # Section 5.2: images of the target domain stay as they are.
        terms["identity_a"] = losses.identity * losses.cycle_a * l1(identity_a, real_a)
        terms["identity_b"] = losses.identity * losses.cycle_b * l1(identity_b, real_b)

    passes = Passes(real_a, real_b, fake_a, fake_b, cycled_a, cycled_b, identity_a, identity_b)
    bound = {"gen_ab": gen_ab, "gen_ba": gen_ba, "disc_a": disc_a, "disc_b": disc_b}
    for name, extra in losses.extra.items():
        terms[name] = extra.loss(passes, frozen[name], bound)
        if jnp.shape(terms[name]) != ():
            raise ValueError(f"{name}: expected a scalar loss, got {jnp.shape(terms[name])}")
    return sum(terms.values(), jnp.zeros(())), (terms, {"a": fake_a, "b": fake_b})


def discriminator_loss(
    discriminators: Params,
    real: Images,
    fake: Images,
    keys: Array,
    *,
    networks: Any,
    losses: Losses,
    part: Literal["both", "real", "fake"] = "both",
) -> tuple[Array, tuple[Metrics, None]]:
    """Compute the sum of both discriminators' objectives, equation 1 of the paper.

    Each is halved, which slows discriminators down relative to the generators (section 4).

    Args:
        discriminators: {disc_a, disc_b}, the parameters that are trained.
        real: Images of both domains.
        fake: Generated images of the same shapes.
        keys: [B], a PRNG key for each pair.
        networks: The four modules.
        losses: The losses and their weights.
        part: The images that count; for "real" or "fake" the adversarial loss must have `parts`.

    Returns:
        The sum, and (its terms {a, b}, None).
    """
    terms: Metrics = {}
    for number, domain in enumerate(("a", "b")):
        name = f"disc_{domain}"
        disc = BoundNetwork(getattr(networks, name), discriminators[name])
        if part != "both":
            assert losses.adversarial.parts is not None
            of_real, of_fake = losses.adversarial.parts
            loss, images = (of_real, real) if part == "real" else (of_fake, fake)
            terms[domain] = 0.5 * sum_over_scales(loss, disc(images[domain]))
            continue
        real_scores, fake_scores = disc(real[domain], fake[domain])
        terms[domain] = 0.5 * sum_over_scales(
            losses.adversarial.discriminator, real_scores, fake_scores
        )
        if losses.adversarial.gradient_penalty is not None:
            terms[domain] += losses.gradient_penalty * losses.adversarial.gradient_penalty(
                disc, real[domain], fake[domain], fold_in(keys, number)
            )
    return sum(terms.values(), jnp.zeros(())), (terms, None)


def identity_loss(
    generators: Params, real: Images, keys: Array, *, networks: Any, losses: Losses
) -> tuple[Array, tuple[Metrics, None]]:
    """Compute the identity loss by itself, for `loss.identity_step=separate`.

    Args:
        generators: {gen_ab, gen_ba}, the parameters that are trained.
        real: Images of both domains.
        keys: [B], a PRNG key for each pair.
        networks: The four modules.
        losses: The losses and their weights.

    Returns:
        The weighted sum, and (its terms {a, b}, None).
    """
    gen_ab = BoundNetwork(networks.gen_ab, generators["gen_ab"], fold_in(keys, 2))
    gen_ba = BoundNetwork(networks.gen_ba, generators["gen_ba"], fold_in(keys, 3))
    terms = {
        "a": losses.identity * losses.cycle_a * l1(gen_ba(real["a"]), real["a"]),
        "b": losses.identity * losses.cycle_b * l1(gen_ab(real["b"]), real["b"]),
    }
    return terms["a"] + terms["b"], (terms, None)


def sum_over_scales(loss: Callable[..., Array], *scores: Any) -> Array:
    """Compute a loss of score maps, summed over the maps of a multi-scale discriminator."""
    maps = zip(*map(jax.tree.leaves, scores), strict=True)
    return sum((loss(*values) for values in maps), jnp.zeros(()))


def l1(x: Array, y: Array) -> Array:
    """Compute the mean absolute difference of images of one shape."""
    if x.shape != y.shape:
        raise ValueError(f"l1: expected equal shapes, got {x.shape} and {y.shape}")
    return jnp.mean(jnp.abs(x - y))


def gradient_penalty(
    discriminate: Callable[[Array], Any], real: Array, fake: Array, keys: Array
) -> Array:
    """Penalise slopes of the scores other than 1 between real and generated images.

    Follows Gulrajani et al. 2017, equation 3; the scores of an image are summed.

    Args:
        discriminate: Images [B, H, W, C] to scores, one map or several.
        real: [B, H, W, C].
        fake: [B, H, W, C].
        keys: [B], from each of which an image's point between real and fake is drawn.
    """
    mix = jax.vmap(lambda key: jax.random.uniform(key, (), real.dtype))(keys)
    return slope_penalty(discriminate, real, fake, mix)


def slope_penalty(
    discriminate: Callable[[Array], Any], real: Array, fake: Array, mix: Array
) -> Array:
    """Compute `gradient_penalty` at the points mix * real + (1 - mix) * fake, mix being [B]."""
    mix = mix[:, None, None, None]
    between = mix * real + (1.0 - mix) * fake

    def total(x: Array) -> Array:
        return sum(map(jnp.sum, jax.tree.leaves(discriminate(x))), jnp.zeros(()))

    slope = jax.grad(total)(between)
    # The small number keeps the root's gradient finite where the scores are flat.
    length = jnp.sqrt(jnp.sum(jnp.square(slope), axis=(1, 2, 3)) + 1e-16)
    return jnp.mean(jnp.square(length - 1.0))
