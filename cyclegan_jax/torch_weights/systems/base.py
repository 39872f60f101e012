"""Parts of the formats of all systems."""

import abc
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cyclegan_jax.torch_weights.unpickler import one_line
from cyclegan_jax.utils.errors import UserError

Params = Any
Tensors = Mapping[str, np.ndarray]
Choices = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class System:
    """A published program that trains the four networks.

    Attributes:
        name: In messages.
        discriminators: Fields of the configuration that give its discriminators; they hold if no
            file of a discriminator is imported.
        exported: Its file names for our networks; empty if weights are only imported.
        published: Values of fields that its code fixes: it does not load files of others.
        one_channel_count: Whether its generators have as many channels in as out.
    """

    name: str
    discriminators: Mapping[str, Any] = field(default_factory=dict)
    exported: Mapping[str, str] = field(default_factory=dict)
    published: Choices = field(default_factory=dict)
    one_channel_count: bool = False


@dataclass(frozen=True, kw_only=True)
class Format(abc.ABC):
    """The weights of one kind of network, as a system stores them.

    Attributes:
        system: The program.
        network: generator or discriminator.
        variants: Values of `generator.variant` or `discriminator.variant` that it can hold.
        matches: Returns whether tensors are in this format.
        detect: Returns what tensors determine of the configuration: fields by dotted name,
            `channels_in` and, for a generator, `channels_out`. Raises UserError.
        choices: Values of further fields that such networks have.
    """

    system: System
    network: str
    variants: tuple[str, ...]
    matches: Callable[[Tensors], bool]
    detect: Callable[[Tensors], dict[str, Any]]
    choices: Choices

    @abc.abstractmethod
    def to_params(self, tensors: Tensors, like: Params) -> Params:
        """Return the parameters of one network.

        Args:
            tensors: From `formats.trainable`.
            like: The network's tree of parameters, or of their shapes.

        Returns:
            A tree as `like`, of NumPy arrays of its types.

        Raises:
            UserError: Tensors are missing, unexpected or of another shape; lists their names.
        """

    def from_params(self, params: Params, *, dropout: bool = False) -> dict[str, np.ndarray]:
        """Return the tensors of one network, by name, in the order of the system.

        Args:
            params: The parameters of a network of `variants`.
            dropout: Whether the system is to build the network with dropout.

        Returns:
            A state dict. Batch norms, which have running statistics there, get those of a new norm.
        """
        raise UserError(f"weights are not exported to {self.system.name}")


@dataclass(frozen=True, kw_only=True)
class NamedFormat(Format):
    """A format with PyTorch's layout of tensors, in which each layer of ours is a named module.

    Attributes:
        layers: Returns the table {our layer: their module} in their order. It receives the names of
            our layers that have parameters, such as block_0/conv_0, and whether their modules
            include dropouts. The table may hold norms without parameters.
        has_dropout: Returns whether tensors are of modules that include dropouts.
        transposed: Whether layers up_0, up_1, ... are transposed convolutions.
        scale: Suffix of a norm's scale.
    """

    layers: Callable[[Collection[str], bool], dict[str, str]]
    has_dropout: Callable[[Tensors], bool] = lambda tensors: False
    transposed: bool = True
    scale: str = "weight"

    def to_params(self, tensors: Tensors, like: Params) -> Params:
        """Return the parameters of one network; see `Format`."""
        flat = flatten_dict(like, sep="/")
        table = self._table(flat, self.has_dropout(tensors))
        missing, params = [], {}
        mismatches = Mismatches()
        for path, (name, axes) in table.items():
            if name not in tensors:
                missing.append(name)
            elif mismatches.check(name, tensors[name], [flat[path].shape[axis] for axis in axes]):
                array = tensors[name].transpose(np.argsort(axes))
                params[path] = np.array(array, flat[path].dtype)
        expected = {name for name, _ in table.values()}
        mismatches.lists["missing"] = missing
        mismatches.lists["unexpected"] = [name for name in tensors if name not in expected]
        mismatches.refuse()
        return unflatten_dict(params, sep="/")

    def from_params(self, params: Params, *, dropout: bool = False) -> dict[str, np.ndarray]:
        """Return the tensors of one network; see `Format`."""
        flat = flatten_dict(params, sep="/")
        tensors = {}
        for path, (name, axes) in self._table(flat, dropout).items():
            array = np.asarray(flat[path])
            tensors[name] = np.array(array.transpose(axes), order="C")
            if path.endswith("/bias") and f"{path.removesuffix('bias')}scale" in flat:
                module = name.removesuffix(".bias")
                tensors[f"{module}.running_mean"] = np.zeros_like(array)
                tensors[f"{module}.running_var"] = np.ones_like(array)
                tensors[f"{module}.num_batches_tracked"] = np.zeros((), np.int64)
        return tensors

    def _table(self, flat: Collection[str], dropout: bool) -> dict[str, tuple[str, Any]]:
        """Return {our parameter: (their tensor, our axes in the order of theirs)}."""
        table = {}
        suffixes = {"kernel": "weight", "scale": self.scale, "bias": "bias"}
        layers = {path.rpartition("/")[0] for path in flat}
        for layer, module in self.layers(layers, dropout).items():
            # Ours: [h, w, in, out]; PyTorch's: [out, in, h, w], transposed [in, out, h, w].
            transposed = self.transposed and layer.startswith("up_")
            kernel_axes = (2, 3, 0, 1) if transposed else (3, 2, 0, 1)
            for parameter, suffix in suffixes.items():
                if (path := f"{layer}/{parameter}") in flat:
                    axes = kernel_axes if parameter == "kernel" else (0,)
                    table[path] = f"{module}.{suffix}", axes
        if absent := [path for path in flat if path not in table]:
            raise UserError(f"{', '.join(self.variants)} have no {shorten(absent)}")
        return table


class Mismatches:
    """Tensors that do not fit a network."""

    def __init__(self) -> None:
        self.lists: dict[str, list[str]] = {
            "missing": [],
            "unexpected": [],
            "of another shape": [],
            "not of floating-point numbers": [],
        }

    def check(self, name: str, tensor: np.ndarray, shape: Collection[int]) -> bool:
        """Return whether a tensor has this shape and floating-point numbers; note it if not."""
        if tensor.shape != tuple(shape):
            self.lists["of another shape"].append(f"{name} {list(tensor.shape)} for {list(shape)}")
        elif not jnp.issubdtype(tensor.dtype, np.floating):
            self.lists["not of floating-point numbers"].append(f"{name} ({tensor.dtype})")
        else:
            return True
        return False

    def refuse(self) -> None:
        """Raise UserError if there are any."""
        problems = [f"{kind}: {shorten(names)}" for kind, names in self.lists.items() if names]
        if problems:
            raise UserError(f"does not fit the network; {'; '.join(problems)}")


def blocks_fields(variant: str, blocks: int, published: int) -> dict[str, Any]:
    """Return the fields of a generator that has residual blocks."""
    return {
        "generator.variant": variant,
        "generator.blocks": None if blocks == published else blocks,
        "generator.dropout": 0.0,
    }


def kernel(tensors: Tensors, module: str) -> np.ndarray:
    """Return the kernel of a convolution; raise UserError if there is none."""
    result = tensors.get(f"{module}.weight")
    if result is None or result.ndim != 4:
        raise UserError(f"expected a kernel {module}.weight, got {describe(tensors)}")
    return result


def describe(tensors: Tensors) -> str:
    """Return names and shapes for a message of one line."""
    return shorten([f"{name} {list(tensor.shape)}" for name, tensor in tensors.items()])


def shorten(items: list[str], most: int = 10) -> str:
    """Return a list for a message of one line."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(one_line(item) for item in items[:most]) + more
