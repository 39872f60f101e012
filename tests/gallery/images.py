"""Images for gallery tests, and the images embedded in pages."""

import base64
import io
import re

import numpy as np
from PIL import Image


def noise(height, width, channels=3, dtype=np.uint8):
    """Return random samples that depend on the shape alone."""
    rng = np.random.default_rng((height, width, channels))
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)


def decoded(url):
    """Return the image in a `data:` URL, decoded by Pillow."""
    kind, text = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", url).groups()
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    assert image.format.lower() == kind
    return np.asarray(image)
