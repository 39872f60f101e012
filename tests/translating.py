"""Helpers of the tests of the translate program."""

import numpy as np
import pytest

from cyclegan_jax.translate import main
from cyclegan_jax.utils.errors import UserError

RNG = np.random.default_rng(0)


def grey(height, width, channels=3, dtype=np.uint8):
    """Return a random image with equal colour channels, and random alpha."""
    image = RNG.integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)
    image[..., : 3 if channels > 2 else 1] = image[..., :1]
    return image


def call(source, output, *more):
    main(["--workdir", "run", "--input", str(source), "--output", str(output), *more])


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def refusal(*arguments):
    """Return the one-line message of the UserError that `main` raises."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)
