"""Narrow networks of `benchmarks/torch_networks.py` with random parameters, and their files."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from benchmarks import torch_networks
from configs import default
from tests.parity import change, randomise

torch.set_num_threads(1)


def changed(kind: str, fields: dict[str, Any]) -> Any:
    """Return a configuration of narrow networks, 2 channels in A and 3 in B."""
    config = change(
        default.get_config(), generator__width=2, discriminator__width=2, data__channels_a=2
    )
    return change(config, **{f"{kind}__{name}": value for name, value in fields.items()})


def network(kind: str, config: Any, seed: int = 0) -> torch.nn.Module:
    """Return the original's gen_ab or disc_a."""
    if kind == "generator":
        module = torch_networks.build_generator(
            config, config.data.channels_a, config.data.channels_b
        )
    else:
        module = torch_networks.build_discriminator(config, config.data.channels_a)
    randomise(module, seed)
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.eval()
    return module


def save(path: Path, module: torch.nn.Module, zipped: bool = True) -> Path:
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=zipped)
    return path


def assert_same(ours: Any, theirs: Any) -> None:
    """Assert that two trees have the same structure and numbers."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
