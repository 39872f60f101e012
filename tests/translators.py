"""Work directories without training, and generators whose results are known without them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cyclegan_jax import config as config_lib
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.inference.translator import Network, Translator
from cyclegan_jax.models.layers import Style
from tests import tiny
from tests.states import start_state


@dataclass(frozen=True)
class Scaled:
    """Every channel of the result is `factor` times the mean of the image's channels."""

    channels: int = 3
    factor: float = -1.0
    granularity: int = 4
    smallest: int = 8
    style: Style = field(default_factory=Style)

    def apply(self, variables: Any, x: Any) -> Any:
        """As a Flax module's."""
        assert not x.shape[1] % self.granularity and x.shape[1] >= self.smallest
        assert not x.shape[2] % self.granularity and x.shape[2] >= self.smallest
        mean = x.mean(-1, keepdims=True)
        if self.style.norm == "batch":
            mean = mean - mean.mean()
        return self.factor * jnp.repeat(mean, self.channels, axis=-1)


def scaled_translator(
    channels: tuple[int, int] = (3, 3), factors: tuple[float, float] = (-1.0, -1.0), **options: Any
) -> Translator:
    """From A to B, with the channels of each and the factors of there and back."""
    batch_size = options.pop("batch_size", 1)
    there = Network(Scaled(channels[1], factors[0], **options), {}, channels[0])
    back = Network(Scaled(channels[0], factors[1], **options), {}, channels[1])
    return Translator(there, back, 7, batch_size=batch_size)


def save_run(workdir: Path, steps: tuple[int, ...]) -> tuple[Any, dict[int, Any]]:
    """Makes the work directory of a tiny run; all parameters grow with the step.

    Returns:
        Its configuration, and the networks' parameters by step.
    """
    config = tiny.get_config()
    config.generator.blocks = 1
    config.generator.width = 2
    state = start_state(config, (32, 32))
    checkpoints = Checkpoints(workdir)
    params = {}
    for step in steps:
        params[step] = jax.tree.map(lambda x, by=step: x * by, state.params)
        checkpoints.save(state.replace(step=jnp.int32(step), params=params[step]), config)
    checkpoints.wait()
    checkpoints.close()
    (workdir / "config.json").write_text(config_lib.to_json(config))
    return config, params
