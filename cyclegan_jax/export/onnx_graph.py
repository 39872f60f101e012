"""Generators as ONNX graphs, for any batch size, height and width.

The graph derives from the generator's own `forward`, run with the operations of `GraphOps`, which
add ONNX nodes instead of computing. Feature maps are [batch, channels, height, width], the layout
of ONNX's layers.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from flax import linen as nn
from onnx import helper, numpy_helper

from cyclegan_jax.inference.translator import Network
from cyclegan_jax.models.forward import Activation, LayerFactory
from cyclegan_jax.models.layers import (
    BatchNorm,
    Conv,
    InstanceNorm,
    LayerConfig,
    NoNorm,
    ResizeConv,
    UpConv,
    leaky_relu,
)
from cyclegan_jax.models.protocol import ForwardGenerator
from cyclegan_jax.utils.errors import UserError

Params = Mapping[str, Any]

# Supported by runtimes since 2022: ONNX Runtime 1.12, TensorRT 8.6, OpenVINO 2023.
OPSET = 17
IR_VERSION = 8
INPUT, OUTPUT = "images", "translations"
_ACTIVATIONS: dict[Any, tuple[str, dict[str, float]]] = {
    nn.relu: ("Relu", {}),
    leaky_relu: ("LeakyRelu", {"alpha": 0.2}),
}


class Value(NamedTuple):
    """A feature map of the graph: its name and number of channels."""

    name: str
    channels: int


def build_model(network: Network, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Build the graph of a generator, from `images` to `translations`.

    Both are float32 [batch, channels, height, width] in [-1, 1]. Dropout is left out.

    Args:
        network: A `ForwardGenerator` with parameters in float32.
        metadata: Texts to store in the model, by name.

    Raises:
        UserError: The generator, or one of its norms or activations, cannot be exported.
    """
    generator = network.generator
    if not isinstance(generator, ForwardGenerator):
        raise UserError(
            f"export to onnx: {type(generator).__name__} does not support it; expected a generator "
            "with a `forward` (see models/protocol.py)"
        )
    graph = _Graph()
    ops = GraphOps(graph, generator.config, network.params)
    unit, least = generator.granularity, max(generator.smallest, generator.granularity)
    generator.forward(ops, Value(graph.check_multiple(INPUT, unit), network.channels))

    def images(name: str, channels: int) -> onnx.ValueInfoProto:
        shape: list[str | int | None] = ["batch", channels, "height", "width"]
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

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
        f"{least}." + (" Statistics are those of the whole batch." * generator.mixes_images),
    )
    sizes = {"granularity": str(unit), "smallest": str(least)}
    helper.set_model_props(model, {**metadata, "layout": "NCHW", "range": "[-1, 1]", **sizes})
    return model


class _Graph:
    """Nodes and constants so far. Every node has one output, of the node's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def node(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Add a node; return its name."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def check_multiple(self, images: str, unit: int) -> str:
        """Add nodes that fail for sides that are no multiples of `unit`; return their output.

        Without them the result of other sizes would have another size than the images.
        """
        blocks = self.node("SpaceToDepth", images, name="blocks", blocksize=unit)
        return self.node("DepthToSpace", blocks, name="checked", blocksize=unit, mode="DCR")

    def constant(self, name: str, values: Any, dtype: type = np.float32) -> str:
        """Add a constant, once; return its name."""
        if name not in self.constants:
            array: np.ndarray = np.ascontiguousarray(values, dtype)
            self.constants[name] = numpy_helper.from_array(array, name)
        return name


class GraphOps:
    """The operations of `models.forward.Ops` as nodes of a graph.

    Attributes:
        graph: The graph that nodes are added to.
        config: Settings of all layers.
        params: Parameters of the network, or of a block.
        scope: Prefix of names: "" or "block_0.".
    """

    def __init__(self, graph: _Graph, config: LayerConfig, params: Params, scope: str = ""):
        self.graph = graph
        self.config = config
        self.params = params
        self.scope = scope

    def layer(
        self,
        x: Value | list[Value],
        conv: LayerFactory,
        name: str,
        *,
        norm: str | None = None,
        activation: Activation | None = None,
        pre_activation: Activation | None = None,
        dropout: float = 0.0,
    ) -> Value:
        """Implement `Ops.layer`; dropout is left out."""
        full = self.scope + name
        if isinstance(x, list):
            names = [value.name for value in x]
            joined = self.graph.node("Concat", *names, name=f"{full}.joined", axis=1)
            x = Value(joined, sum(value.channels for value in x))
        y = x.name
        if pre_activation is not None:
            y = self._activate(pre_activation, y, f"{full}.active")
        layer = conv(parent=None)
        y = self._convolve(layer, self.params[name], y, full)
        if norm is not None:
            params = self.params.get(norm, {})
            y = self._normalise(params, y, layer.features, self.scope + norm)
        if activation is not None:
            y = self._activate(activation, y, f"{y}.active")
        return Value(y, layer.features)

    def block(self, x: Value, block: LayerFactory, name: str) -> Value:
        """Implement `Ops.block`."""
        ops = GraphOps(self.graph, self.config, self.params[name], f"{self.scope}{name}.")
        return block(parent=None).forward(ops, x)

    def add(self, x: Value, y: Value) -> Value:
        """Implement `Ops.add`."""
        name = self.graph.node("Add", x.name, y.name, name=f"{self.scope}sum")
        return Value(name, x.channels)

    def output(self, x: Value) -> Value:
        """Implement `Ops.output`: the graph's output."""
        return Value(self.graph.node("Tanh", x.name, name=OUTPUT), x.channels)

    def _convolve(self, layer: Conv | UpConv, params: Params, x: str, name: str) -> str:
        node, constant = self.graph.node, self.graph.constant
        weights = np.asarray(params["kernel"])
        bias = [constant(f"{name}.bias", params["bias"])] if "bias" in params else []
        if isinstance(layer, UpConv):
            start, end = layer.crop
            # As in PyTorch: equal padding on all sides, and the missing row and column appended.
            more = max(start - end, 0)
            kernel = constant(f"{name}.kernel", weights.transpose(2, 3, 0, 1))
            return node(
                "ConvTranspose",
                *(x, kernel, *bias),
                name=name,
                kernel_shape=[layer.size] * 2,
                strides=[2, 2],
                pads=[start, start, end + more, end + more],
                output_padding=[more, more],
            )
        if isinstance(layer, ResizeConv):
            scales = constant("doubled", [1, 1, 2, 2])
            x = node(
                "Resize",
                *(x, "", scales),
                name=f"{name}.doubled",
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        # Sides of maps that are halved are even, which determines "same" padding.
        (top, bottom), (left, right) = layer.pads(2, 2)
        pads = [top, left, bottom, right]
        if layer.pad_mode == "reflect":
            numbers = [0, 0, top, left, 0, 0, bottom, right]
            around = constant("around_" + "_".join(map(str, pads)), numbers, np.int64)
            x = node("Pad", x, around, name=f"{name}.padded", mode="reflect")
            pads = [0] * 4
        kernel = constant(f"{name}.kernel", weights.transpose(3, 2, 0, 1))
        return node(
            "Conv",
            *(x, kernel, *bias),
            name=name,
            kernel_shape=[layer.size] * 2,
            strides=[layer.stride] * 2,
            pads=pads,
        )

    def _normalise(self, params: Params, x: str, channels: int, name: str) -> str:
        node, constant = self.graph.node, self.graph.constant
        norm = self.config.build_norm(parent=None)
        if isinstance(norm, NoNorm):
            return x
        if isinstance(norm, InstanceNorm) and norm.raised == "variance":
            ones, zeros = np.ones(channels), np.zeros(channels)
            scale, bias = (
                constant(f"{name}.{kind}", params[kind])
                if norm.affine
                else constant(f"{kind}_{channels}", plain)
                for kind, plain in (("scale", ones), ("bias", zeros))
            )
            return node("InstanceNormalization", x, scale, bias, name=name, epsilon=norm.epsilon)
        if not isinstance(norm, InstanceNorm | BatchNorm):
            raise UserError(f"export to onnx: {type(norm).__name__} does not support it")
        # ONNX's own instance norm adds epsilon to the variance; its batch norm has running
        # statistics, or more than one output.
        axes = [2, 3] if isinstance(norm, InstanceNorm) else [0, 2, 3]
        mean_of = functools.partial(node, "ReduceMean", axes=axes, keepdims=1)
        shape = (channels, 1, 1)
        scale = constant(f"{name}.scale", np.reshape(params["scale"], shape))
        bias = constant(f"{name}.bias", np.reshape(params["bias"], shape))
        centred = node("Sub", x, mean_of(x, name=f"{name}.mean"), name=f"{name}.centred")
        squared = node("Mul", centred, centred, name=f"{name}.squared")
        variance = mean_of(squared, name=f"{name}.variance")

        def root(x: str) -> str:
            return node("Sqrt", x, name=f"{name}.root")

        def raised(x: str) -> str:
            return node("Add", x, constant("epsilon", norm.epsilon), name=f"{name}.raised")

        divisor = root(raised(variance)) if norm.raised == "variance" else raised(root(variance))
        # The factor, which is small, comes first: one pass fewer over the map.
        factor = node("Div", scale, divisor, name=f"{name}.factor")
        scaled = node("Mul", centred, factor, name=f"{name}.scaled")
        return node("Add", scaled, bias, name=name)

    def _activate(self, activation: Any, x: str, name: str) -> str:
        if activation not in _ACTIVATIONS:
            name = getattr(activation, "__name__", activation)
            raise UserError(f"export to onnx: activation {name} does not support it")
        kind, attributes = _ACTIVATIONS[activation]
        return self.graph.node(kind, x, name=name, **attributes)
