"""Lower bound of the time of an update on a chip, from the work of its convolutions.

    python -m benchmarks.floor
    python -m benchmarks.floor --sizes 256 --batches 1,16 --tflops 989 --terabytes 4.8

Needs torch but no GPU: the published program runs on tensors without data. A convolution, or one
of its gradients, takes at least the time of its multiplications at the chip's peak rate, and at
least the time to read its operands and write its result once at the memory bandwidth. The bound is
the sum of the larger of the two over all convolutions, and of Adam's memory traffic. Norms,
activations, paddings and losses count as free, as if fused into the convolutions. By default the
chip is an H200 in bfloat16, according to its data sheet.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.forms import parse_numbers
from benchmarks.grid import Cell
from benchmarks.machine import Columns, table
from benchmarks.updates import Updates
from benchmarks.work import Operation

# Adam reads parameters, gradients and two moments, and writes all but the gradients, in float32.
_ADAM_BYTES = 4 * (4 + 3)


def floor_of(
    operations: Sequence[Operation], parameters: int, bytes_each: int, rate: float, bandwidth: float
) -> dict[str, float]:
    """Compute the lower bound of an update.

    Args:
        operations: Convolutions of the update.
        parameters: Number of parameters.
        bytes_each: Bytes per element in a convolution.
        rate: Floating-point operations per second.
        bandwidth: Bytes per second.

    Returns:
        {gflop, gigabytes, products, bytes, milliseconds}: work and memory traffic, the
        milliseconds that each takes by itself, and the lower bound.
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
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", type=parse_numbers, default=[128, 256, 512], help="height and width of images")
    add("--batches", type=parse_numbers, default=[1, 16], help="pairs per update")
    add("--tflops", type=float, default=989.0, help="peak rate of the chip (989)")
    add("--terabytes", type=float, default=4.8, help="memory bandwidth per second (4.8)")
    add("--bytes", type=int, default=2, help="bytes per element in a convolution (2)")
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
