"""Count the operations and memory traffic of PyTorch's convolutions, on tensors without data."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Operation(NamedTuple):
    """A convolution, forward or backward.

    Attributes:
        flops: Floating-point operations, two per multiply-add.
        elements: Number of elements in all arrays that it reads and writes.
    """

    flops: int
    elements: int


def count_operations(run: Callable[[], Any]) -> list[Operation]:
    """Return the convolutions that PyTorch runs in a call, in order; meta tensors suffice."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry

    operations = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = function(*args, **(kwargs or {}))
            formula = flop_registry.get(function.overloadpacket)
            if formula is not None:
                arrays = [x for x in tree_leaves((args, result)) if isinstance(x, torch.Tensor)]
                flops = formula(*args, **(kwargs or {}), out_val=result)
                operations.append(Operation(flops, sum(x.numel() for x in arrays)))
            return result

    with Count():
        run()
    return operations
