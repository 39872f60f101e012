"""Random networks and images of the export tests."""

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime

from cyclegan_jax.inference.translator import Network
from cyclegan_jax.models.generators import GENERATORS

RNG = np.random.default_rng(0)


def random_network(variant, config, channels=(3, 2), width=2):
    """Return a generator whose random parameters keep the scale of activations."""
    blocks = {} if variant.startswith("unet") else {"blocks": 1}
    generator = GENERATORS[variant](channels=channels[1], width=width, config=config, **blocks)
    side = 2 * generator.granularity
    image = jax.ShapeDtypeStruct((1, side, side, channels[0]), jnp.float32)
    shapes = jax.eval_shape(generator.init, jax.random.key(0), image)["params"]

    def draw(path, leaf):
        kind = path[-1].key
        spread = (2 / np.prod(leaf.shape[:-1])) ** 0.5 if kind == "kernel" else 0.3
        return np.asarray((kind == "scale") + spread * RNG.standard_normal(leaf.shape), leaf.dtype)

    return Network(generator, jax.tree.map_with_path(draw, shapes), channels[0])


def images(network, batch, rows, columns):
    """Return random images of `rows` x `columns` times the network's granularity."""
    unit = network.generator.granularity
    shape = (batch, rows * unit, columns * unit, network.channels)
    return RNG.uniform(-1, 1, shape).astype(np.float32)


def run_onnx(model, x):
    """Apply a model, bytes or a path, to NHWC images with ONNX Runtime."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (y,) = session.run(["translations"], {"images": x.transpose(0, 3, 1, 2).copy()})
    return y.transpose(0, 2, 3, 1)
