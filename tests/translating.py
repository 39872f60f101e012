"""What tests of the translating program share."""

import numpy as np
import pytest

from cyclegan_jax.translate import main
from cyclegan_jax.utils.errors import UserError

RNG = np.random.default_rng(0)


def grey(height, width, channels=3, dtype=np.uint8):
    """An image whose channels are alike; alpha is not."""
    image = RNG.integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)
    image[..., : 3 if channels > 2 else 1] = image[..., :1]
    return image


def call(source, output, *more):
    main(["--workdir", "run", "--input", str(source), "--output", str(output), *more])


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def refusal(*arguments):
    """The line with which it refuses: `main` raises, the command prints it and exits with 1."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)
