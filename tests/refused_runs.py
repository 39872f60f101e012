"""Runs that are refused, or that stop with an error."""

from pathlib import Path

import pytest

from cyclegan_jax.training import train
from cyclegan_jax.utils.errors import UserError


def refusal(config, workdir: Path) -> str:
    """Return the one-line message of the UserError that `train` raises."""
    with pytest.raises(UserError) as caught:
        train(config, workdir)
    message = str(caught.value)
    assert "\n" not in message
    return message
