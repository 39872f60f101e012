"""Images for galleries, and what their pages hold of them."""

import base64
import io
import re

import numpy as np
from PIL import Image


def noise(height, width, channels=3, dtype=np.uint8):
    """Random samples, the same for the same size whichever tests ran before."""
    rng = np.random.default_rng((height, width, channels))
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)


def decoded(address):
    """The image in a `data:` address, as Pillow reads it."""
    kind, text = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", address).groups()
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    assert image.format.lower() == kind
    return np.asarray(image)
