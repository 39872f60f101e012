"""Updates of all four networks to time, ours and PyTorch's."""

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.forms import Form, resolve
from benchmarks.grid import Cell, Prepared
from benchmarks.machine import allow_tf32, torch_device
from benchmarks.plain_config import default_config
from benchmarks.work import Operation, count_operations


@dataclass(frozen=True)
class Updates:
    """A `grid.Task`: updates of the published configuration.

    Attributes:
        device: cpu or gpu.
        rounds: Timings of each form.
        width: Width of all four networks.
        generator: Variant of the generators.
        layers: Strided layers of the discriminators.
    """

    device: str = "cpu"
    rounds: int = 5
    width: int = 64
    generator: str = "resnet9"
    layers: int = 3

    def config(self, cell: Cell, form: Form | None = None) -> Any:
        """Return the configuration of a cell, and of our form of it."""
        config = default_config()
        config.batch_size = cell.batch
        config.generator.variant = self.generator
        config.generator.width = config.discriminator.width = self.width
        config.discriminator.layers = self.layers
        if form is not None and form.is_ours:
            config.precision = form.precision
            config.generator.remat = form.remat
            config.kernels = "triton" if form.triton else "xla"
            if form.micro_batches is not None:
                config.micro_batches = form.micro_batches or cell.batch
            config.steps_per_dispatch = form.steps
        return config

    def images_in(self, cell: Cell) -> int:
        """Return the number of pairs in a batch."""
        return cell.batch

    def flops(self, cell: Cell) -> int:
        """Count the floating-point operations of an update of the published program.

        Convolutions are counted, forward and backward, with two operations per multiply-add; what
        our layers compute beyond that, or save, is not.
        """
        operations, _ = self.work(cell)
        return sum(operation.flops for operation in operations)

    def work(self, cell: Cell) -> tuple[list[Operation], int]:
        """Return the convolutions of an update of the published program, and its parameter count.

        The program runs on tensors without data.
        """
        import torch

        from benchmarks import torch_cyclegan

        trainer = torch_cyclegan.Trainer(self.config(cell), "meta")
        real = torch.zeros(cell.batch, 3, cell.size, cell.size, device="meta")
        draws = torch_cyclegan.draw(cell.batch, 50, torch.Generator().manual_seed(0))
        operations = count_operations(lambda: trainer.step(real, real, draws))
        return operations, sum(p.numel() for p in trainer.networks.parameters())

    def prepare(self, form: Form, cell: Cell, seconds: dict[Form, float]) -> Prepared:
        """Prepare a form of either side."""
        if form.is_ours:
            return prepare_ours(self, form, cell)
        return prepare_torch(self, resolve(form, seconds), cell)


def prepare_ours(task: Updates, form: Form, cell: Cell) -> Prepared:
    """Compile our update for one device, with batches on that device."""
    import jax
    import numpy as np

    from cyclegan_jax.build import build_model, build_state
    from cyclegan_jax.distributed import place
    from cyclegan_jax.step import train_step
    from cyclegan_jax.utils.memory import release_free_memory

    config = task.config(cell, form)
    model = build_model(config, pairs_per_epoch=1000, devices=1)
    step = partial(train_step, frozen=model.losses.frozen, model=model)
    state = jax.jit(lambda: build_state(config, (cell.size, cell.size)))()
    random = np.random.default_rng(0)
    shape = (cell.batch, cell.size, cell.size, 3)
    batches = [
        {domain: random.integers(0, 256, shape, np.uint8) for domain in ("a", "b")}
        for _ in range(form.steps)
    ]
    arrays = place(batches, devices=1).arrays
    # As `compile_step` does; compiled explicitly for the compiler's memory analysis.
    update = step if form.steps == 1 else lambda state, arrays: jax.lax.scan(step, state, arrays)
    compiled = jax.jit(update, donate_argnums=0).lower(state, arrays).compile()
    release_free_memory()

    def run(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state, _ = compiled(state, arrays)
        jax.block_until_ready(state)

    precision = form.multiplied_in(task.device)
    return Prepared(run, precision, form.steps, lambda: planned_memory(compiled))


def planned_memory(compiled: Any) -> int | None:
    """Return the bytes that a compiled JAX program needs, including arguments and results."""
    plan = compiled.memory_analysis()
    if plan is None:
        return None
    return (
        plan.argument_size_in_bytes
        + plan.temp_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
    )


def prepare_torch(task: Updates, form: Form, cell: Cell) -> Prepared:
    """Prepare the update of `torch_cyclegan`, the published program.

    On a GPU, cuDNN selects the fastest algorithms. torch.compile is applied to the networks; for
    CUDA graphs, which need all forward passes before a backward pass in one, to the two losses.
    """
    import torch

    from benchmarks import torch_cyclegan

    torch.backends.cudnn.benchmark = True
    before = allocated()
    config = task.config(cell)
    device = torch_device(task.device)
    autocast = torch.bfloat16 if form.precision == "bfloat16" else None
    trainer = torch_cyclegan.Trainer(config, device, autocast_dtype=autocast)
    shape = (cell.batch, 3, cell.size, cell.size)
    real_a, real_b = (torch.rand(shape, device=device) * 2 - 1 for _ in range(2))
    if form.channels_last:
        trainer.networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        real_a, real_b = (x.to(memory_format=torch.channels_last) for x in (real_a, real_b))
    if form.graphs:
        for loss in ("generator_losses", "discriminator_losses"):
            compiled = torch.compile(getattr(trainer, loss), mode="reduce-overhead", dynamic=False)
            setattr(trainer, loss, compiled)
    elif form.compiled:
        for network in trainer.networks.values():
            network.compile(dynamic=False)
    random = torch.Generator().manual_seed(0)

    def run(updates: int) -> None:
        allow_tf32(form.precision != "float32")
        for _ in range(updates):
            if form.graphs:
                torch.compiler.cudagraph_mark_step_begin()
            draws = torch_cyclegan.draw(cell.batch, config.pool_size, random)
            trainer.step(real_a, real_b, draws)
        if device == "cuda":
            torch.cuda.synchronize()

    return Prepared(run, form.precision, memory=lambda: peak_memory(run, before))


def allocated() -> int:
    """Return the bytes that PyTorch has allocated on the GPU."""
    import torch

    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def peak_memory(run: Any, before: int) -> int | None:
    """Return the peak bytes of another call beyond `before`; None without a GPU."""
    torch = sys.modules["torch"]
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    run(1)
    return torch.cuda.max_memory_allocated() - before
