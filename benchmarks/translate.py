"""Time a generator, ours and PyTorch's, and translation from file to file.

    python -m benchmarks.translate                             # ResNet-9 of width 64, 256x256
    python -m benchmarks.translate --width 8 --images 200 --format png
    python -m benchmarks.translate --device gpu --sizes 256,512 --batches 1,16 --json t.json
    python -m benchmarks.translate --large 4096x4096 --tile 128 --rounds 1

Rounds alternate in one process. Compiled networks are called on arrays in memory; the form `files`
is the program `cyclegan_jax.translate`, which reads, translates and writes as many JPEG images.
PyTorch's networks have the form's type, without autocast, and record no gradients.

`--large` instead times a single image, in bands with `--tile` or else as a whole, and measures the
peak memory of the process. Only the first time includes compilation.

Forms, separated by commas:
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import forms as forms_lib
from benchmarks.forms import Form, parse_forms, parse_numbers, resolve
from benchmarks.grid import Cell, Prepared, Result, measure_cell, run_grid
from benchmarks.machine import GIB, allow_tf32, choose_device, torch_device, warn_of_load
from benchmarks.plain_config import default_config
from benchmarks.results import compare, complete_rows, finish, leave, ratio_line, show_cell
from benchmarks.updates import allocated, peak_memory, planned_memory
from benchmarks.work import count_operations

DEFAULTS = {
    "cpu": ([256], [1], "ours_float32,files,torch_float32"),
    "gpu": (
        [256, 128, 512],
        [1, 16],
        "ours_bfloat16,torch_bfloat16,torch_bfloat16+channels_last,torch_tf32,torch_compile,"
        "ours_float32,torch_float32,files",
    ),
}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; `sizes`, `batches` and `forms` are lists."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__}{(forms_lib.__doc__ or '').partition(':')[2]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--variant", default="resnet9", help="variant of the generator")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--sizes", "--size", type=parse_numbers, help="height and width of images")
    parser.add_argument("--batches", "--batch-size", type=parse_numbers, help="images at a time")
    parser.add_argument("--forms", type=parse_forms, help="see above")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--images", type=int, default=20, help="images per round from file to file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=7.0, help="nothing starts after these")
    parser.add_argument("--json", type=Path, help="file of results")
    parser.add_argument("--format", help="format of the output files (default: JPEG)")
    parser.add_argument("--large", metavar="HxW", help="one image of this height and width")
    parser.add_argument("--tile", type=int, help="with --large: rows of a band")
    args = parser.parse_args(argv)
    sizes, batches, forms = DEFAULTS[args.device]
    args.sizes, args.batches = args.sizes or sizes, args.batches or batches
    args.forms = args.forms or parse_forms(forms)
    for form in args.forms:
        if form.is_of_training:
            parser.error(f"form {form.name!r}: +steps, +micro, +remat and +triton are for training")
    return args


@dataclass(frozen=True)
class Translations:
    """A `grid.Task`: translations.

    Attributes:
        device: cpu or gpu.
        rounds: Timings of each form.
        variant: Variant of the generator.
        width: Width of the generator.
        images: Images per call of the form `files`.
        format: Format of the output files; None for JPEG.
        tile: Rows of a band, for large images; None for whole images.
    """

    device: str
    rounds: int
    variant: str
    width: int
    images: int
    format: str | None
    tile: int | None

    def images_in(self, cell: Cell) -> int:
        """Return the number of images in a batch."""
        return cell.batch

    def flops(self, cell: Cell) -> int:
        """Count the operations of the published generator's convolutions, two per multiply-add."""
        import torch

        network = self.torch_network().to("meta")
        images = torch.zeros(cell.batch, 3, cell.size, cell.size, device="meta")
        with torch.no_grad():
            operations = count_operations(lambda: network(images))
        return sum(operation.flops for operation in operations)

    def prepare(self, form: Form, cell: Cell, seconds: dict[Form, float]) -> Prepared:
        """Prepare a form of one of three kinds."""
        if form.name == "files":
            return prepare_files(self, form, cell)
        if form.is_ours:
            return prepare_ours(self, form, cell)
        return prepare_torch(self, resolve(form, seconds), cell)

    def network(self, precision: str = "float32") -> Any:
        """Return our generator with initial parameters, an `inference.translator.Network`."""
        import jax
        import jax.numpy as jnp

        from cyclegan_jax.inference.translator import Network
        from cyclegan_jax.models.generators import GENERATORS
        from cyclegan_jax.models.layers import LayerConfig

        config = LayerConfig(dtype=jnp.dtype(precision))
        generator = GENERATORS[self.variant](channels=3, width=self.width, config=config)
        small = jnp.zeros((1, generator.granularity * 2, generator.granularity * 2, 3))
        return Network(generator, jax.jit(generator.init)(jax.random.key(0), small)["params"], 3)

    def translator(self, batch: int) -> Any:
        """Return a translator with the same network in both directions."""
        from cyclegan_jax.inference.translator import Translator

        network = self.network()
        return Translator(network, network, 0, batch_size=batch, tile=self.tile)

    def torch_network(self) -> Any:
        """Return the published generator."""
        from benchmarks import torch_networks

        config = default_config()
        config.generator.variant, config.generator.width = self.variant, self.width
        return torch_networks.build_generator(config, 3, 3)


def prepare_ours(task: Translations, form: Form, cell: Cell) -> Prepared:
    """Compile our network as `translator.translate` does, for images in memory."""
    import jax

    from cyclegan_jax.inference.translator import translate

    generator, params, _ = task.network(form.precision)
    shape = (cell.batch, cell.size, cell.size, 3)
    images = jax.random.uniform(jax.random.key(1), shape, minval=-1.0)
    compiled = jax.jit(translate, static_argnums=0).lower(generator, params, images).compile()

    def run(calls: int) -> None:
        for _ in range(calls):
            result = compiled(params, images)
        jax.block_until_ready(result)

    precision = form.multiplied_in(task.device)
    return Prepared(run, precision, memory=lambda: planned_memory(compiled))


def prepare_files(task: Translations, form: Form, cell: Cell) -> Prepared:
    """Prepare the program, for generated images in a temporary folder."""
    default_config()  # substitutes ml_collections if it is missing
    from benchmarks.data import make_images
    from cyclegan_jax.inference.files import plan_files, translate_files

    translator = task.translator(cell.batch)
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name)
    make_images(path, task.images, cell.size)

    def run(calls: int) -> None:
        assert folder
        for _ in range(calls):
            suffix = task.format and f".{task.format}"
            output = path / "translated"
            plans = plan_files(path / "trainA", output, suffix=suffix, overwrite=True)
            failures = translate_files(translator, plans, lambda: None)
            assert not failures

    return Prepared(run, form.multiplied_in(task.device), task.images / cell.batch)


def prepare_torch(task: Translations, form: Form, cell: Cell) -> Prepared:
    """Prepare the published network."""
    import torch

    torch.backends.cudnn.benchmark = True
    before = allocated()
    dtype = torch.bfloat16 if form.precision == "bfloat16" else torch.float32
    layout = torch.channels_last if form.channels_last else torch.contiguous_format
    device = torch_device(task.device)
    network = task.torch_network().eval().to(device, dtype).to(memory_format=layout)
    images = torch.rand((cell.batch, 3, cell.size, cell.size), device=device) * 2 - 1
    images = images.to(dtype).to(memory_format=layout)
    if form.compiled or form.graphs:
        network.compile(dynamic=False, mode="reduce-overhead" if form.graphs else None)

    def run(calls: int) -> None:
        allow_tf32(form.precision != "float32")
        # Compilers support this better than inference_mode, and it is as fast.
        with torch.no_grad():
            for _ in range(calls):
                network(images)
        if device == "cuda":
            torch.cuda.synchronize()

    return Prepared(run, form.precision, memory=lambda: peak_memory(run, before))


def show(result: Result) -> None:
    """Print the result of a cell, with the ratio of the program's time to the network's."""
    show_cell(result)
    rows = {row["form"]: row for row in complete_rows([result]) if row["status"] == "ok"}
    if "files" in rows and "ours_float32" in rows:
        print(ratio_line(compare(rows["files"], rows["ours_float32"])), flush=True)


def measure(args: argparse.Namespace, task: Translations) -> None:
    """Measure the grid, print its tables and ratios, and write the file."""
    cells = [Cell(size, batch) for size in args.sizes for batch in args.batches]
    warn_of_load()
    results = run_grid(
        partial(measure_cell, task),
        [(cell, args.forms) for cell in cells],
        time.time() + 60 * args.minutes,
        apart=len(cells) > 1 or args.device == "gpu",
        show=show,
    )
    leave(finish(results, args.json))


def measure_large(task: Translations, large: str) -> None:
    """Time one large image, and print the times and the peak memory."""
    import resource

    import numpy as np

    height, width = map(int, large.split("x"))
    translator = task.translator(1)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    seconds = []
    for _ in range(task.rounds):
        start = time.perf_counter()
        translator(image)
        seconds.append(f"{time.perf_counter() - start:.1f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    mode = f"in bands of {task.tile} rows" if task.tile else "whole"
    print(
        f"{task.variant} of width {task.width}, {height}x{width} {mode}: {', '.join(seconds)} s, "
        f"peak {peak:.2f} GiB"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse_arguments(argv)
    choose_device(args.device)
    from cyclegan_jax.utils.errors import UserError

    task = Translations(
        args.device, args.rounds, args.variant, args.width, args.images, args.format, args.tile
    )
    try:
        measure_large(task, args.large) if args.large else measure(args, task)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
