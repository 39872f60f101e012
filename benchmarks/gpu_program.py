"""Inspect the program that XLA compiles for a GPU, on a machine without one.

    python -m benchmarks.gpu_program --chip h200 --batches 1,16
    python -m benchmarks.gpu_program --forms ours_bfloat16,ours_float32+remat --layers
    python -m benchmarks.gpu_program --forms ours_bfloat16,ours_bfloat16+triton
    python -m benchmarks.gpu_program --json new.json --diff old.json

Needs the packages of `requirements-cuda.txt`, but neither a GPU nor a driver. Compiles an update of
all four networks, or a translation, and prints the kernels it launches and their memory traffic, by
kind and with `--layers` by layer, the memory it needs, and a modelled time.

Traffic is the size of all operands and results of each kernel: values that a cache still holds
count as well, and values that a kernel of ours reads twice (see `ops.pallas_norm`) count once. The
modelled time of a kernel is 2 microseconds plus the larger of its traffic at 85 per cent of the
chip's memory bandwidth and its products at 70 per cent of the peak rate of the tensor cores. That
of cuDNN's convolutions, whose algorithms are chosen on the device, is the least certain. What it
says about changes is worth more than the sum.

Forms are those of `benchmarks.forms` that begin with `ours`.
"""

import argparse
import functools
import importlib.util
import json
import os
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.forms import Form, parse_forms, parse_numbers
from benchmarks.grid import Cell
from benchmarks.hlo import Kernel, Program, Shape
from benchmarks.machine import Columns, table, write_json
from benchmarks.updates import Updates, planned_memory

CHIPS = Path(__file__).with_name("chips")
LAUNCH = 2e-6
BANDWIDTH, PEAK = 0.85, 0.70  # reachable parts of the data sheet's rates


class Chip(NamedTuple):
    """A GPU to compile for.

    Attributes:
        name: Its name.
        memory_bytes_per_second: Memory bandwidth of the data sheet.
        bfloat16_flops: Peak rate of dense products in bfloat16, in operations per second.
        tf32_flops: The same in TF32.
        target: XLA's description of it.
    """

    name: str
    memory_bytes_per_second: float
    bfloat16_flops: float
    tf32_flops: float
    target: str

    @classmethod
    def load(cls, name: str) -> "Chip":
        """Read the chip's file in `benchmarks/chips`."""
        return cls(**tomllib.loads((CHIPS / f"{name}.toml").read_text()))


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chips = sorted(path.stem for path in CHIPS.glob("*.toml"))
    parser.add_argument("--chip", choices=chips, default="h200")
    parser.add_argument("--sizes", type=parse_numbers, default=[256], help="sides of the images")
    parser.add_argument("--batches", type=parse_numbers, default=[1, 16], help="pairs per update")
    parser.add_argument("--forms", type=parse_forms, default=parse_forms("ours_bfloat16"))
    parser.add_argument("--devices", type=int, default=1, help="GPUs to share the batch")
    parser.add_argument("--translation", action="store_true", help="translations, not updates")
    parser.add_argument("--layers", action="store_true", help="a table of layers as well")
    parser.add_argument("--width", type=int, default=64, help="width of all four networks")
    parser.add_argument("--generator", default="resnet9", help="variant of the generators")
    parser.add_argument("--text", type=Path, help="folder for the programs, as HLO text")
    parser.add_argument("--json", type=Path, help="file of results")
    parser.add_argument("--diff", type=Path, help="an earlier file of results to compare with")
    args = parser.parse_args(argv)
    if not all(form.is_ours for form in args.forms):
        parser.error("--forms: expected names that begin with ours")
    if any(batch % args.devices for batch in args.batches):
        parser.error(f"--batches: expected multiples of --devices {args.devices}")
    if args.translation and args.devices > 1:
        parser.error("--devices: expected 1 with --translation")
    if args.diff and not args.diff.is_file():
        parser.error(f"--diff {args.diff}: no such file")
    if not can_compile():
        parser.error("expected JAX's plugin for CUDA: pip install -r requirements-cuda.txt")
    return args


def can_compile() -> bool:
    """Return whether JAX's plugin for CUDA is installed, which needs no GPU."""
    return any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))


def compile_update(chip: Chip, task: Updates, form: Form, cell: Cell, devices: int = 1) -> Any:
    """Compile an update for one GPU, or for several that share its batch."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from cyclegan_jax.build import build_model, build_state
    from cyclegan_jax.distributed import DEVICE_AXIS
    from cyclegan_jax.ops import default_form
    from cyclegan_jax.step import train_step

    config = task.config(cell, form)
    # On GPUs a batch passes through the networks at once, unless the form says otherwise.
    config.micro_batches = config.micro_batches or 1
    mesh = Mesh(np.array(target_devices(chip, devices)), DEVICE_AXIS)
    replicated = NamedSharding(mesh, PartitionSpec())
    sharded = NamedSharding(mesh, PartitionSpec(None, DEVICE_AXIS))
    with default_form("direct"):
        model = build_model(config, pairs_per_epoch=1000, devices=1)
        if devices > 1:
            model = with_axis(config, model, DEVICE_AXIS)
        step = functools.partial(train_step, model=model)

        def update(state: Any, batches: Any) -> Any:
            if form.steps == 1:
                return step(state, jax.tree.map(lambda x: x[0], batches))
            return jax.lax.scan(step, state, batches)

        if devices > 1:
            # `jax.pmap` does the same, but accepts only devices that exist.
            specs = (PartitionSpec(), PartitionSpec(None, DEVICE_AXIS))
            update = jax.shard_map(
                update, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
            )
        state = jax.eval_shape(lambda: build_state(config, (cell.size, cell.size)))
        shape = (form.steps, cell.batch, cell.size, cell.size, 3)
        batch = jax.ShapeDtypeStruct(shape, np.uint8, sharding=sharded)
        program = jax.jit(update, donate_argnums=0)
        arguments = placed(state, replicated), {"a": batch, "b": batch}
        return compile_for(chip, program, *arguments)


def with_axis(config: Any, model: Any, axis_name: str) -> Any:
    """Return a model whose batches are sharded over a device axis."""
    from cyclegan_jax.build import build_networks

    return model._replace(networks=build_networks(config, axis_name), axis_name=axis_name)


def compile_translation(chip: Chip, task: Updates, form: Form, cell: Cell) -> Any:
    """Compile the translation of a batch of images to the other domain, for one GPU."""
    import jax
    import numpy as np

    from cyclegan_jax.build import build_networks, build_state
    from cyclegan_jax.ops import default_form

    config = task.config(cell, form)
    sharding = jax.sharding.SingleDeviceSharding(target_devices(chip, 1)[0])
    with default_form("triton" if form.triton else "direct"):
        generator = build_networks(config).gen_ab
        state = jax.eval_shape(lambda: build_state(config, (cell.size, cell.size)))
        shape = (cell.batch, cell.size, cell.size, 3)
        images = jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding)
        params = placed(state.params["gen_ab"], sharding)
        program = jax.jit(lambda params, images: generator.apply({"params": params}, images))
        return compile_for(chip, program, params, images)


def compile_for(chip: Chip, program: Any, *arguments: Any) -> Any:
    """Compile a jitted function of arrays on stand-ins of a GPU."""
    import jax
    from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

    # Since jax 0.12 kernels of ours are lowered for a device of this name.
    device = AbstractDevice(device_kind=chip.name, num_cores=None, platform="gpu")
    target = AbstractMesh((), (), abstract_device=device)
    with use_abstract_mesh(target) if jax.__version_info__ >= (0, 12) else nullcontext():
        lowered = program.trace(*arguments).lower(lowering_platforms=("cuda",))
    return lowered.compile()


def target_devices(chip: Chip, count: int) -> list[Any]:
    """Return stand-ins of GPUs, which programs are compiled for."""
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(
        platform="cuda", target_config=chip.target, topology=f"1x1x{count}"
    )
    return list(topology.devices)


def placed(tree: Any, sharding: Any) -> Any:
    """Give shapes a sharding."""
    import jax

    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def kind_of(kernel: Kernel) -> str:
    """Return the kind of a kernel, for the table."""
    instruction = kernel.instruction
    if instruction.target.startswith("__cudnn$conv"):
        return "convolution"
    if instruction.target.endswith("triton"):
        return "norms in one kernel"
    if instruction.opcode == "custom-call":
        return instruction.target.strip("_")
    if re.match("all-|reduce-scatter|collective", instruction.opcode):
        return "communication"
    if instruction.opcode in ("copy", "copy-start"):
        return "copy"
    if layer_of(kernel) == "-":
        return "optimiser and pools"
    for name in ("reduce", "gather", "concatenate", "transpose"):
        if name in kernel.inner | {instruction.opcode}:
            return {"reduce": "sums", "gather": "padding", "concatenate": "padding"}.get(name, name)
    return "elementwise"


def layer_of(kernel: Kernel) -> str:
    """Return the layer of a kernel without numbers, and forward or backward; or a dash."""
    path = kernel.instruction.op_name.split("/")
    for place, name in enumerate(path):
        if re.fullmatch(r"[A-Z]\w*(Generator|Discriminator)", name):
            layers = [
                re.sub(r"\d+", "N", part)
                for part in path[place + 1 : -1]
                if re.fullmatch(r"[a-z]\w*", part)
            ]
            backward = any("transpose(" in part for part in path[:place])
            kind = "generator" if "Generator" in name else "discriminator"
            return " ".join([kind, *layers, "backward" if backward else "forward"])
    return "-"


def flops_of(kernel: Kernel, shapes: list[Shape]) -> int:
    """Count the operations of a convolution; of other kernels 0.

    Args:
        kernel: The kernel.
        shapes: Its operands.
    """
    target = kernel.instruction.target
    labels = re.search(r"dim_labels=\w+_\w+->(\w+)", kernel.instruction.text)
    if not target.startswith("__cudnn$conv") or labels is None:
        return 0
    result = kernel.instruction.shapes[0]
    # The output of the forward convolution and its kernel, whichever of the three this is.
    output, weights = {
        "__cudnn$convBackwardInput": (shapes[0], shapes[1]),
        "__cudnn$convBackwardFilter": (shapes[1], result),
    }.get(target, (result, shapes[1]))
    channels = output.dims[labels[1].index("f")]
    return 2 * output.size // channels * weights.size


def measure(compiled: Any, chip: Chip, precision: str) -> dict[str, Any]:
    """Return kernels, traffic in bytes, time in seconds and memory in bytes of a program."""
    program = Program(compiled.as_text())
    rate = chip.bfloat16_flops if precision == "bfloat16" else chip.tf32_flops
    kinds: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0.0])
    layers: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0.0])
    layouts: dict[str, int] = defaultdict(int)
    for kernel in program.kernels():
        flops = flops_of(kernel, program.operands(kernel.instruction))
        moving = (kernel.read + kernel.written) / (BANDWIDTH * chip.memory_bytes_per_second)
        seconds = kernel.times * (LAUNCH + max(moving, flops / (PEAK * rate)))
        for sums, name in ((kinds, kind_of(kernel)), (layers, layer_of(kernel))):
            row = sums[name]
            row[0] += kernel.times
            row[1] += kernel.traffic
            row[2] += seconds
        if flops:
            layouts[layout_of(kernel, program)] += kernel.times
    total = [sum(row[i] for row in kinds.values()) for i in range(3)]
    return {
        "kernels": total[0],
        "traffic": total[1],
        "seconds": total[2],
        "memory": planned_memory(compiled),
        "kinds": dict(kinds),
        "layers": dict(layers),
        "convolutions": dict(layouts),
    }


def layout_of(kernel: Kernel, program: Program) -> str:
    """Return a convolution's kind, and type and order of axes of its operands and result."""
    instruction = kernel.instruction
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text)
    assert labels is not None
    axes = [labels[1], labels[2], labels[3]]
    if instruction.target.endswith("BackwardInput"):
        axes = [labels[3], labels[2], labels[1]]
    elif instruction.target.endswith("BackwardFilter"):
        axes = [labels[1], labels[3], labels[2]]
    shapes = [*program.operands(instruction)[:2], instruction.shapes[0]]
    described = [
        shape.dtype + " " + "".join(names[axis] for axis in reversed(shape.layout))
        for shape, names in zip(shapes, axes, strict=True)
    ]
    return f"{instruction.target.removeprefix('__cudnn$conv')}: {', '.join(described)}"


def show(title: str, result: dict[str, Any], before: dict[str, Any] | None, layers: bool) -> None:
    """Print the tables of a program, beside those of an earlier one if there is one."""
    print(f"\n{title}")
    for part in ["kinds", "layers"] if layers else ["kinds"]:
        print(table(columns(part, before is not None), rows(part, result, before)))
    for name, count in sorted(result["convolutions"].items()):
        print(f"{count:5d} {name}")
    earlier = "" if before is None else f"{before['memory'] / 1e9:.2f} before, "
    print(f"memory: {earlier}{result['memory'] / 1e9:.2f} GB")


def columns(part: str, compared: bool) -> Columns:
    """Return the columns of a table of kinds or layers."""
    result = {"name": (part, "s")}
    for when in ("before", "now") if compared else ("now",):
        suffix = f" {when}" if compared else ""
        for key, style in (("kernels", ".0f"), ("GB", ".2f"), ("ms", ".2f")):
            result[f"{key} {when}"] = (key + suffix, style)
    return result


def rows(part: str, result: dict[str, Any], before: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the rows of a table of kinds or layers, those of most traffic first."""
    sides = {"now": result} if before is None else {"before": before, "now": result}
    names = sorted({name for side in sides.values() for name in side[part]})
    names.sort(key=lambda name: -result[part].get(name, [0, 0])[1])
    table_rows: list[dict[str, Any]] = []
    for name in [*names, "total"]:
        row: dict[str, Any] = {"name": name}
        for when, side in sides.items():
            sums = [side["kernels"], side["traffic"], side["seconds"]]
            kernels, traffic, seconds = sums if name == "total" else side[part].get(name, [0, 0, 0])
            row |= {f"kernels {when}": kernels, f"GB {when}": traffic / 1e9}
            row[f"ms {when}"] = seconds * 1e3
        table_rows.append(row)
    return table_rows


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parse_arguments(argv)
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Programs of devices that are absent can be written to the cache, but not read.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    import jax

    chip = Chip.load(args.chip)
    earlier = json.loads(args.diff.read_text())["programs"] if args.diff else {}
    task = Updates(device="gpu", width=args.width, generator=args.generator)
    print(f"{chip.name}, jax {jax.__version__}; modelled, not measured")
    programs = {}
    for form in args.forms:
        for cell in (Cell(size, batch) for size in args.sizes for batch in args.batches):
            if args.translation:
                compiled = compile_translation(chip, task, form, cell)
            else:
                compiled = compile_update(chip, task, form, cell, args.devices)
            what = "translation" if args.translation else "update"
            name = f"{what} {cell.size} batch {cell.batch} {form.name}"
            if args.devices > 1:
                name += f" devices {args.devices}"
            if args.text:
                args.text.mkdir(parents=True, exist_ok=True)
                (args.text / f"{name.replace(' ', '_')}.txt").write_text(compiled.as_text())
            programs[name] = measure(compiled, chip, form.precision)
            show(name, programs[name], earlier.get(name), args.layers)
    if args.json:
        write_json(args.json, {"chip": args.chip, "jax": jax.__version__, "programs": programs})


if __name__ == "__main__":
    main(sys.argv[1:])
