"""The least time that an update can take on a chip, from what its convolutions compute and move.

    python -m benchmarks.floor
    python -m benchmarks.floor --sizes 256 --batches 1,16 --tflops 989 --terabytes 4.8

Needs torch, and no GPU: the published program runs on tensors without data. A convolution, and
likewise its gradients, cannot take less than its products take at the chip's peak, nor less than
reading what it is given and writing what it gives, once, at the bandwidth of its memory. The floor
is the sum of the larger of the two over all of them, and of what Adam reads and writes. Norms,
activations, paddings and losses count as nothing, as if all were part of the convolutions. The
chip is an H200 by default, in bfloat16, by its data sheet.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.forms import parse_numbers
from benchmarks.grid import Cell
from benchmarks.machine import Columns, table
from benchmarks.updates import Updates
from benchmarks.work import Operation

# Adam reads a parameter, its gradient and two means, and writes all but the gradient, in float32.
_ADAM_BYTES = 4 * (4 + 3)


def floor_of(
    operations: Sequence[Operation], parameters: int, bytes_each: int, rate: float, bandwidth: float
) -> dict[str, float]:
    """The figures of an update.

    Args:
        operations: of it.
        parameters: how many numbers Adam moves.
        bytes_each: of a number in a convolution.
        rate: floating-point operations per second.
        bandwidth: bytes per second.

    Returns:
        {gflop, gigabytes, products, bytes, milliseconds}: what is computed and moved; the
        milliseconds of each alone; and those of the floor.
    """
    adam = parameters * _ADAM_BYTES / bandwidth
    products = [operation.flops / rate for operation in operations]
    moves = [operation.elements * bytes_each / bandwidth for operation in operations]
    return {
        "gflop": sum(operation.flops for operation in operations) / 1e9,
        "gigabytes": (sum(moves) + adam) * bandwidth / 1e9,
        "products": 1000 * sum(products),
        "bytes": 1000 * (sum(moves) + adam),
        "milliseconds": 1000 * (sum(map(max, products, moves)) + adam),
    }


COLUMNS: Columns = {
    "size": ("size", "d"),
    "batch": ("batch", "d"),
    "gflop": ("GFLOP", ",.0f"),
    "gigabytes": ("GB", ".2f"),
    "products": ("products ms", ".2f"),
    "bytes": ("bytes ms", ".2f"),
    "milliseconds": ("floor ms", ".2f"),
    "images_per_second": ("images/s", ".0f"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", type=parse_numbers, default=[128, 256, 512], help="pixels of a side")
    add("--batches", type=parse_numbers, default=[1, 16], help="pairs per update")
    add("--tflops", type=float, default=989.0, help="of the chip (989)")
    add("--terabytes", type=float, default=4.8, help="per second of its memory (4.8)")
    add("--bytes", type=int, default=2, help="of a number in a convolution (2)")
    args = parser.parse_args(argv)
    task, rows = Updates(), []
    for size in args.sizes:
        for batch in args.batches:
            operations, parameters = task.work(Cell(size, batch))
            row = floor_of(
                operations, parameters, args.bytes, args.tflops * 1e12, args.terabytes * 1e12
            )
            images = 1000 * batch / row["milliseconds"]
            rows.append({"size": size, "batch": batch, "images_per_second": images} | row)
    print(table(COLUMNS, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
