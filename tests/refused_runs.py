"""Runs that are refused before they begin, or end where they cannot go on."""

from pathlib import Path

import pytest

from cyclegan_jax.training import train
from cyclegan_jax.utils.errors import UserError


def refusal(config, workdir: Path) -> str:
    """The one line with which `train` refuses."""
    with pytest.raises(UserError) as caught:
        train(config, workdir)
    message = str(caught.value)
    assert "\n" not in message
    return message
