"""Generators as ONNX graphs of ONNX's own layers, for any number, height and width of images.

A graph is written layer by layer from the generator's description; XLA's form of the network, with
sizes known and convolutions rewritten for speed, plays no part. Maps are [batch, channels, height,
width], which is how ONNX's layers want them.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from flax import linen as nn
from onnx import helper, numpy_helper

from cyclegan_jax.inference.translator import Network
from cyclegan_jax.models.generators import ResNetGenerator, UNetGenerator
from cyclegan_jax.models.layers import Conv, ResizeConv, UpConv, leaky_relu

Params = Mapping[str, Any]

# What runtimes of 2022 and later take: ONNX Runtime from 1.12 on, TensorRT 8.6, OpenVINO 2023.
OPSET = 17
IR_VERSION = 8
INPUT, OUTPUT = "images", "translations"
_EPSILON = 1e-5
_ACTIVATIONS: dict[Any, tuple[str, dict[str, float]]] = {
    nn.relu: ("Relu", {}),
    leaky_relu: ("LeakyRelu", {"alpha": 0.2}),
}


def build_model(network: Network, about: Mapping[str, str]) -> onnx.ModelProto:
    """A generator as a graph from `images` to `translations`.

    Both are float32 [batch, channels, height, width] in [-1, 1]. Dropout is left out.

    Args:
        network: of any variant and norm, with parameters in float32.
        about: names and texts to keep in it.
    """
    generator = network.generator
    graph = _Graph(generator.style.norm)
    walk = _resnet if isinstance(generator, ResNetGenerator) else _unet
    graph.node("Tanh", walk(graph, generator, network.params, INPUT), name=OUTPUT)

    def images(name: str, channels: int) -> onnx.ValueInfoProto:
        shape: list[str | int | None] = ["batch", channels, "height", "width"]
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    unit, least = generator.granularity, max(generator.smallest, generator.granularity)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "generator",
            [images(INPUT, network.channels)],
            [images(OUTPUT, generator.channels)],
            list(graph.constants.values()),
        ),
        producer_name="cyclegan_jax",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        doc_string=f"A generator of CycleGAN. {INPUT} and {OUTPUT} are float32 [batch, channels, "
        f"height, width] (NCHW) in [-1, 1]; height and width are multiples of {unit}, at least "
        f"{least}."
        + (" The images of a batch share their statistics." * (generator.style.norm == "batch")),
    )
    sizes = {"granularity": str(unit), "smallest": str(least)}
    helper.set_model_props(model, {**about, "layout": "NCHW", "range": "[-1, 1]", **sizes})
    return model


class _Graph:
    """Nodes and constants so far. Every node gives one map, of the node's name."""

    def __init__(self, norm: str):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._norm = norm

    def node(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Adds a node; returns its name."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: Any, dtype: type = np.float32) -> str:
        """Adds a constant, once; returns its name."""
        if name not in self.constants:
            array: np.ndarray = np.ascontiguousarray(values, dtype)
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def convolve(self, layer: Conv | UpConv, params: Params, x: str, name: str) -> str:
        """The layer, of which `features` and `style` are not looked at, on the map named x."""
        weights = np.asarray(params["kernel"])
        bias = [self.constant(f"{name}.bias", params["bias"])] if "bias" in params else []
        if isinstance(layer, UpConv):
            start, end = layer.crop
            # Written as PyTorch writes it: the same on all sides, and what is missing appended.
            more = max(start - end, 0)
            kernel = self.constant(f"{name}.kernel", weights.transpose(2, 3, 0, 1))
            return self.node(
                "ConvTranspose",
                *(x, kernel, *bias),
                name=name,
                kernel_shape=[layer.size] * 2,
                strides=[2, 2],
                pads=[start, start, end + more, end + more],
                output_padding=[more, more],
            )
        if isinstance(layer, ResizeConv):
            scales = self.constant("doubled", [1, 1, 2, 2])
            x = self.node(
                "Resize",
                *(x, "", scales),
                name=f"{name}.doubled",
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        # Sides of maps that are halved are even, which decides what "same" means.
        (top, bottom), (left, right) = layer._pads(2, 2)
        pads = [top, left, bottom, right]
        if layer.pad_mode == "reflect":
            numbers = [0, 0, top, left, 0, 0, bottom, right]
            around = self.constant("around_" + "_".join(map(str, pads)), numbers, np.int64)
            x = self.node("Pad", x, around, name=f"{name}.padded", mode="reflect")
            pads = [0] * 4
        kernel = self.constant(f"{name}.kernel", weights.transpose(3, 2, 0, 1))
        return self.node(
            "Conv",
            *(x, kernel, *bias),
            name=name,
            kernel_shape=[layer.size] * 2,
            strides=[layer.stride] * 2,
            pads=pads,
        )

    def normalise(self, params: Params, x: str, channels: int, name: str) -> str:
        """The norm of the style on a map of so many channels."""
        if self._norm == "none":
            return x
        if self._norm != "batch":
            affine = self._norm == "instance_affine"
            ones, zeros = np.ones(channels), np.zeros(channels)
            scale, bias = (
                self.constant(f"{name}.{kind}", params[kind])
                if affine
                else self.constant(f"{kind}_{channels}", plain)
                for kind, plain in (("scale", ones), ("bias", zeros))
            )
            return self.node("InstanceNormalization", x, scale, bias, name=name, epsilon=_EPSILON)
        # ONNX's own batch norm has running statistics, or gives more than one map.
        mean_of = functools.partial(self.node, "ReduceMean", axes=[0, 2, 3], keepdims=1)
        shape = (channels, 1, 1)
        scale = self.constant(f"{name}.scale", np.reshape(params["scale"], shape))
        bias = self.constant(f"{name}.bias", np.reshape(params["bias"], shape))
        centred = self.node("Sub", x, mean_of(x, name=f"{name}.mean"), name=f"{name}.centred")
        squared = self.node("Mul", centred, centred, name=f"{name}.squared")
        variance = mean_of(squared, name=f"{name}.variance")
        epsilon = self.constant("epsilon", _EPSILON)
        raised = self.node("Add", variance, epsilon, name=f"{name}.raised")
        deviation = self.node("Sqrt", raised, name=f"{name}.deviation")
        # The factor is put together first: it is small, and the map is gone over once less.
        factor = self.node("Div", scale, deviation, name=f"{name}.factor")
        scaled = self.node("Mul", centred, factor, name=f"{name}.scaled")
        return self.node("Add", scaled, bias, name=name)

    def activate(self, activation: Any, x: str, name: str | None = None) -> str:
        """The activation on the map named x."""
        kind, attributes = _ACTIVATIONS[activation]
        return self.node(kind, x, name=name or f"{x}.active", **attributes)


def _resnet(graph: _Graph, generator: ResNetGenerator, params: Params, x: str) -> str:
    """`ResNetGenerator.__call__` up to its tanh."""
    style, width, levels = generator.style, generator.width, generator.levels
    end = Conv(0, 7, style, padding=3, pad_mode="reflect")
    inner = Conv(0, 3, style, padding=1, pad_mode="reflect")

    def layer(conv: Conv | UpConv, features: int, name: str, x: str) -> str:
        x = graph.convolve(conv, params[name], x, name)
        x = graph.normalise(params.get(f"{name}_norm", {}), x, features, f"{name}_norm")
        return graph.activate(generator.activation, x)

    x = layer(end, width, "stem", x)
    for i in range(levels):
        x = layer(generator.down(0, style=style), width * 2 ** (i + 1), f"down_{i}", x)
    for i in range(generator.blocks):
        block, y = params[f"block_{i}"], x
        for j in range(generator.block_convolutions):
            conv, norm = f"conv_{j}", f"norm_{j}"
            y = graph.convolve(inner, block[conv], y, f"block_{i}.{conv}")
            y = graph.normalise(block.get(norm, {}), y, width * 2**levels, f"block_{i}.{norm}")
            if j == 0:
                y = graph.activate(generator.activation, y)
        x = graph.node("Add", x, y, name=f"block_{i}")
    for i in range(levels):
        x = layer(generator.up(0, style=style), width * 2 ** (levels - 1 - i), f"up_{i}", x)
    return graph.convolve(end, params["head"], x, "head")


def _unet(graph: _Graph, generator: UNetGenerator, params: Params, x: str) -> str:
    """`UNetGenerator.__call__` up to its tanh."""
    style, last = generator.style, generator.depth - 1
    down = Conv(0, 4, style, stride=2, padding=1)
    up = UpConv(0, 4, style, (1, 1))

    def norm(x: str, layer: str) -> str:
        channels = np.shape(params[layer]["kernel"])[-1]
        return graph.normalise(params.get(f"{layer}_norm", {}), x, channels, f"{layer}_norm")

    skips: list[str] = []
    for i in range(generator.depth):
        name = f"down_{i}"
        x = x if i == 0 else graph.activate(leaky_relu, x, f"{name}.active")
        x = graph.convolve(down, params[name], x, name)
        x = norm(x, name) if 0 < i < last else x
        skips.append(x)
    for i in reversed(range(generator.depth)):
        name = f"up_{i}"
        if i < last:
            x = graph.node("Concat", skips[i], x, name=f"{name}.joined", axis=1)
        x = graph.activate(nn.relu, x, f"{name}.active")
        x = graph.convolve(up, params[name], x, name)
        x = norm(x, name) if i > 0 else x
    return x
