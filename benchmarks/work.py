"""What PyTorch computes and moves: its convolutions, counted on tensors without data."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Operation(NamedTuple):
    """A convolution, forward or backward.

    Attributes:
        flops: floating-point operations, two per multiply-add.
        elements: numbers in all arrays that it reads and writes.
    """

    flops: int
    elements: int


def count_operations(run: Callable[[], Any]) -> list[Operation]:
    """What PyTorch multiplies while it runs something, in order; tensors need have no data."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry

    found = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = function(*args, **(kwargs or {}))
            formula = flop_registry.get(function.overloadpacket)
            if formula is not None:
                arrays = [x for x in tree_leaves((args, result)) if isinstance(x, torch.Tensor)]
                flops = formula(*args, **(kwargs or {}), out_val=result)
                found.append(Operation(flops, sum(x.numel() for x in arrays)))
            return result

    with Count():
        run()
    return found
