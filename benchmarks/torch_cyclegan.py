"""CycleGAN written plainly in PyTorch, which tests and benchmarks compare with.

The losses, image pool and update of Zhu et al. 2017 (arXiv:1703.10593), on `torch_networks`.
Nothing here depends on the JAX program: a configuration is any object with the attributes of
`configs/default.py`, and images are [B, C, H, W] in [-1, 1].
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.torch_networks import build_discriminator, build_generator, initialise

Scores = Tensor | tuple[Tensor, ...]


def adversarial(scores: Scores, is_real: bool, mode: str, real_label: float = 1.0) -> Tensor:
    """Compute the loss of scores that should be those of real or of generated images.

    Args:
        scores: Score map, or one of each scale, whose losses are summed.
        is_real: Whether the scores should be those of real images.
        mode: lsgan, vanilla or wgangp.
        real_label: Label of real images, except for wgangp; that of generated images is 0.
    """
    if isinstance(scores, tuple):
        return torch.stack([adversarial(map_, is_real, mode, real_label) for map_ in scores]).sum()
    if mode == "wgangp":
        return -scores.mean() if is_real else scores.mean()
    target = torch.full_like(scores, real_label if is_real else 0.0)
    if mode == "lsgan":
        return functional.mse_loss(scores, target)
    return functional.binary_cross_entropy_with_logits(scores, target)


def gradient_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """Compute the mean squared distance of slopes from 1 at mix * real + (1 - mix) * fake."""
    weight = mix.view(-1, 1, 1, 1)
    between = (weight * real + (1 - weight) * fake).detach().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


PoolDraws = Iterable[tuple[bool, int]]


class ImagePool:
    """Images generated earlier; the caller draws which ones are shown again."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def query(self, images: Tensor, draws: PoolDraws) -> Tensor:
        """Show new images to the pool one by one; return the images to train on.

        Args:
            images: New images [B, C, H, W].
            draws: (use_old, index) for each image: whether a full pool returns the image at `index`
                and replaces it by the new one. Ignored until the pool is full.
        """
        returned = []
        for image, (use_old, index) in zip(images, draws, strict=True):
            if len(self.images) < self.size:
                self.images.append(image.clone())
                returned.append(image)
            elif self.size and use_old:
                returned.append(self.images[index])
                self.images[index] = image.clone()
            else:
                returned.append(image)
        return torch.stack(returned)


@dataclass
class Draws:
    """Random draws of one update.

    Attributes:
        pool_a: Draws of the pool of domain A, see `ImagePool.query`.
        pool_b: Draws of the pool of domain B.
        mix: {a, b}, [B] in [0, 1], for the gradient penalty of wgangp only.
    """

    pool_a: PoolDraws
    pool_b: PoolDraws
    mix: dict[str, Tensor] = field(default_factory=dict)


def draw(batch_size: int, pool_size: int, generator: torch.Generator) -> Draws:
    """Draw as the original does; the mix is on the CPU."""

    def pool() -> list[tuple[bool, int]]:
        use_old = torch.rand(batch_size, generator=generator) > 0.5
        index = torch.randint(max(pool_size, 1), (batch_size,), generator=generator)
        return list(zip(use_old.tolist(), index.tolist(), strict=True))

    mix = {domain: torch.rand(batch_size, generator=generator) for domain in ("a", "b")}
    return Draws(pool(), pool(), mix)


class Trainer:
    """The four networks, their two Adam optimisers and pools.

    The learning rate is constant until it is set. With `autocast_dtype` the networks compute in
    that type. The builders, by default of the published networks, make a generator from (config,
    channels in, channels out) and a discriminator from (config, channels).
    """

    def __init__(
        self,
        config: Any,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        autocast_dtype: torch.dtype | None = None,
        build_generator: Callable[[Any, int, int], nn.Module] = build_generator,
        build_discriminator: Callable[[Any, int], nn.Module] = build_discriminator,
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.autocast_dtype = autocast_dtype
        self.batches = 0
        channels = {"a": config.data.channels_a, "b": config.data.channels_b}
        self.networks = nn.ModuleDict(
            {
                "gen_ab": build_generator(config, channels["a"], channels["b"]),
                "gen_ba": build_generator(config, channels["b"], channels["a"]),
                "disc_a": build_discriminator(config, channels["a"]),
                "disc_b": build_discriminator(config, channels["b"]),
            }
        )
        initialise(self.networks)
        self.networks.to(self.device, dtype)
        o = config.optimizer
        self.optimizers = {
            name: torch.optim.Adam(
                self._parameters(kind),
                lr=o.learning_rate,
                betas=(o.beta1, o.beta2),
                fused=self.device.type == "cuda" or None,
            )
            for name, kind in (("generators", "gen"), ("discriminators", "disc"))
        }
        self.pools = {domain: ImagePool(config.pool_size) for domain in ("a", "b")}

    def step(self, real_a: Tensor, real_b: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Update all networks once, on images [B, C, H, W] of the trainer's device and type.

        Returns:
            The weighted losses before the last step of each optimiser, on the device:
            `generators/adversarial_ab`, `generators/cycle_a`, ..., `discriminators/a`,
            `discriminators/b`. Identity losses are missing where they do not count.
        """
        real = {"a": real_a, "b": real_b}
        if self.config.update_first == "generators":
            terms, fake = self._update_generators(real)
            terms |= self._update_discriminators(real, fake, draws)
        else:
            with torch.no_grad(), self._autocast():
                fake = {"b": self.networks["gen_ab"](real_a), "a": self.networks["gen_ba"](real_b)}
            terms = self._update_discriminators(real, fake, draws)
            terms |= self._update_generators(real)[0]
        self.batches += 1
        return terms

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of both optimisers."""
        for adam in self.optimizers.values():
            for group in adam.param_groups:
                group["lr"] = rate

    def generator_losses(
        self, real: dict[str, Tensor], with_identity: bool = True
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute the weighted terms of the generators' loss, and the fakes {a, b}.

        Args:
            real: {a, b}.
            with_identity: Whether identity losses, if they have a weight, count for this batch.
        """
        weights, networks = self.config.loss, self.networks
        gen_ab, gen_ba = networks["gen_ab"], networks["gen_ba"]
        fake = {"b": gen_ab(real["a"]), "a": gen_ba(real["b"])}
        cycled = {"a": gen_ba(fake["b"]), "b": gen_ab(fake["a"])}
        terms = {}
        for direction, domain in (("ab", "b"), ("ba", "a")):
            scores = networks[f"disc_{domain}"](fake[domain])
            terms[f"adversarial_{direction}"] = weights.adversarial * adversarial(
                scores, True, weights.mode, weights.real_label
            )
        factors = {"a": weights.cycle_a, "b": weights.cycle_b}
        for domain in ("a", "b"):
            distance = functional.l1_loss(cycled[domain], real[domain])
            terms[f"cycle_{domain}"] = factors[domain] * distance
        if weights.identity > 0 and with_identity:
            for domain, generator in (("a", gen_ba), ("b", gen_ab)):
                distance = functional.l1_loss(generator(real[domain]), real[domain])
                terms[f"identity_{domain}"] = weights.identity * factors[domain] * distance
        return terms, fake

    def discriminator_losses(
        self, real: dict[str, Tensor], shown: dict[str, Tensor], mix: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Compute the loss of each discriminator {a, b} on real images and those of the pools."""
        weights = self.config.loss
        terms = {}
        for domain in ("a", "b"):
            network = self.networks[f"disc_{domain}"]
            on_real = adversarial(network(real[domain]), True, weights.mode, weights.real_label)
            on_fake = adversarial(network(shown[domain]), False, weights.mode)
            terms[domain] = 0.5 * (on_real + on_fake)
            if weights.mode == "wgangp":
                weight = mix[domain].to(real[domain])
                penalty = gradient_penalty(network, real[domain], shown[domain], weight)
                terms[domain] = terms[domain] + weights.gradient_penalty * penalty
        return terms

    def _update_generators(
        self, real: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        # Gradients of the discriminators' parameters are not needed here.
        for parameter in self._parameters("disc"):
            parameter.requires_grad_(False)
        # Not in the losses, which torch.compile would compile again for each number.
        with_identity = self.batches % self.config.loss.identity_every_steps == 0
        for _ in range(self.config.generator_updates):
            with self._autocast():
                terms, fake = self.generator_losses(real, with_identity)
            losses = self._minimise("generators", terms)
        for parameter in self._parameters("disc"):
            parameter.requires_grad_(True)
        return losses, {domain: image.detach() for domain, image in fake.items()}

    def _update_discriminators(
        self, real: dict[str, Tensor], fake: dict[str, Tensor], draws: Draws
    ) -> dict[str, Tensor]:
        shown = {
            "a": self.pools["a"].query(fake["a"], draws.pool_a),
            "b": self.pools["b"].query(fake["b"], draws.pool_b),
        }
        for _ in range(self.config.discriminator_updates):
            with self._autocast():
                terms = self.discriminator_losses(real, shown, draws.mix)
            losses = self._minimise("discriminators", terms)
        return losses

    def _minimise(self, name: str, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        return {f"{name}/{term}": value.detach() for term, value in terms.items()}

    def _parameters(self, kind: str) -> list[nn.Parameter]:
        names = [name for name in self.networks if name.startswith(kind)]
        return [p for name in names for p in self.networks[name].parameters()]

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)
