"""Work directories without training, and generators with known results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cyclegan_jax import config as config_lib
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.inference.translator import Network, Translator
from tests import tiny
from tests.states import start_state


@dataclass(frozen=True)
class Scaled:
    """A generator that multiplies the mean of an image's channels by `factor`.

    One that mixes images subtracts the mean of the batch first.
    """

    channels: int = 3
    factor: float = -1.0
    granularity: int = 4
    smallest: int = 8
    mixes_images: bool = False
    supports_tiling: bool = False

    def apply(self, variables: Any, x: Any) -> Any:
        """Apply the generator, as a Flax module's `apply` does."""
        assert not x.shape[1] % self.granularity and x.shape[1] >= self.smallest
        assert not x.shape[2] % self.granularity and x.shape[2] >= self.smallest
        mean = x.mean(-1, keepdims=True)
        if self.mixes_images:
            mean = mean - mean.mean()
        return self.factor * jnp.repeat(mean, self.channels, axis=-1)


def scaled_translator(
    channels: tuple[int, int] = (3, 3), factors: tuple[float, float] = (-1.0, -1.0), **options: Any
) -> Translator:
    """Build a translator from A to B of `Scaled` generators.

    Args:
        channels: Channels of images of A and of B.
        factors: Factors of the generators from A to B and from B to A.
        **options: `batch_size`, and fields of `Scaled`.
    """
    batch_size = options.pop("batch_size", 1)
    forward = Network(Scaled(channels[1], factors[0], **options), {}, channels[0])
    backward = Network(Scaled(channels[0], factors[1], **options), {}, channels[1])
    return Translator(forward, backward, 7, batch_size=batch_size)


def save_run(workdir: Path, steps: tuple[int, ...]) -> tuple[Any, dict[int, Any]]:
    """Write the work directory of a tiny run, whose parameters are proportional to the step.

    Returns:
        Its configuration, and the networks' parameters by step.
    """
    config = tiny.get_config()
    config.generator.blocks = 1
    config.generator.width = 2
    state = start_state(config, (32, 32))
    checkpoints = Checkpoints(workdir, config.to_dict())
    params = {}
    for step in steps:
        params[step] = jax.tree.map(lambda x, by=step: x * by, state.params)
        checkpoints.save(state.replace(step=jnp.int32(step), params=params[step]))
    checkpoints.wait()
    checkpoints.close()
    (workdir / "config.json").write_text(config_lib.to_json(config))
    return config, params
