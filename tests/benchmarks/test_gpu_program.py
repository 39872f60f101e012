"""The program compiled for a GPU: how it is read, and what it must not contain.

The second half needs the packages of `requirements-cuda.txt`, but no GPU.
"""

import jax.numpy as jnp
import pytest

from benchmarks import gpu_program
from benchmarks.forms import parse_form
from benchmarks.gpu_program import Chip, compile_translation, compile_update, flops_of, measure
from benchmarks.grid import Cell
from benchmarks.hlo import Program
from benchmarks.updates import Updates

TEXT = """HloModule jit_f, is_scheduled=true

%fused_add (p.0: f32[4,8], p.1: f32[4,8]) -> f32[4,8] {
  %p.0 = f32[4,8]{1,0} parameter(0)
  %p.1 = f32[4,8]{1,0} parameter(1)
  ROOT %add.1 = f32[4,8]{1,0} add(%p.0, %p.1)
}

%fused_update (q.0: bf16[50,16], q.1: bf16[1,16], q.2: s32[]) -> bf16[50,16] {
  %q.0 = bf16[50,16]{1,0} parameter(0)
  %q.1 = bf16[1,16]{1,0} parameter(1)
  %q.2 = s32[] parameter(2)
  ROOT %dynamic-update-slice.1 = bf16[50,16]{1,0} dynamic-update-slice(%q.0, %q.1, %q.2, %q.2)
}

%body (b.0: (f32[4,8])) -> (f32[4,8]) {
  %b.0 = (f32[4,8]{1,0}) parameter(0)
  %get-tuple-element.1 = f32[4,8]{1,0} get-tuple-element(%b.0), index=0
  %copy.1 = f32[4,8]{0,1} copy(%get-tuple-element.1)
  %bitcast.1 = f32[4,8]{1,0} bitcast(%copy.1)
  ROOT %tuple.1 = (f32[4,8]{1,0}) tuple(%bitcast.1)
}

%cond (c.0: (f32[4,8])) -> pred[] {
  %c.0 = (f32[4,8]{1,0}) parameter(0)
  ROOT %constant.1 = pred[] constant(true)
}

ENTRY %main (x: f32[4,8], pool: bf16[50,16], image: bf16[1,16], at: s32[], a: bf16[2,9,9,5], k: bf16[7,3,3,5]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0)
  %pool = bf16[50,16]{1,0} parameter(1)
  %image = bf16[1,16]{1,0} parameter(2)
  %at = s32[] parameter(3)
  %a = bf16[2,9,9,5]{3,2,1,0} parameter(4)
  %k = bf16[7,3,3,5]{3,2,1,0} parameter(5)
  %fusion.1 = f32[4,8]{1,0} fusion(%x, %x), kind=kLoop, calls=%fused_add, metadata={op_name="jit(f)/transpose(jvp(jit(_apply)))/ResNetGenerator/ResNetGenerator.forward/block_3/block_3.forward/conv_1/add"}
  %fusion.2 = bf16[50,16]{1,0} fusion(%pool, %image, %at), kind=kLoop, calls=%fused_update, metadata={op_name="jit(f)/while/body/scatter"}
  %tuple.2 = (f32[4,8]{1,0}) tuple(%fusion.1)
  %while.1 = (f32[4,8]{1,0}) while(%tuple.2), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %cudnn-conv.1 = (bf16[2,7,7,7]{3,2,1,0}, u8[0]{0}) custom-call(%a, %k), window={size=3x3}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="jit(f)/jvp(jit(_apply))/PatchDiscriminator/conv_0/conv_general_dilated"}
  ROOT %get-tuple-element.2 = f32[4,8]{1,0} get-tuple-element(%while.1), index=0
}
"""  # noqa: E501


def test_kernels_and_their_traffic():
    """Loops count as often as they run, views not at all, and pools only as far as they change."""
    kernels = {kernel.instruction.name: kernel for kernel in Program(TEXT).kernels()}
    assert set(kernels) == {"fusion.1", "fusion.2", "copy.1", "cudnn-conv.1"}
    assert kernels["fusion.1"].traffic == 3 * 4 * 32
    assert kernels["copy.1"].times == 3
    assert kernels["copy.1"].traffic == 3 * 2 * 4 * 32
    # The new image is read and written, and its place is read.
    assert kernels["fusion.2"].traffic == 2 * 2 * 16 + 4
    assert kernels["cudnn-conv.1"].traffic == 2 * (2 * 81 * 5 + 7 * 9 * 5 + 2 * 49 * 7)


def test_kinds_layers_and_products():
    """Kernels are assigned to layers by their names; products follow from the shapes."""
    program = Program(TEXT)
    kernels = {kernel.instruction.name: kernel for kernel in program.kernels()}
    assert gpu_program.layer_of(kernels["fusion.1"]) == "generator block_N conv_N backward"
    assert gpu_program.kind_of(kernels["fusion.1"]) == "elementwise"
    assert gpu_program.kind_of(kernels["fusion.2"]) == "optimiser and pools"
    assert gpu_program.kind_of(kernels["copy.1"]) == "copy"
    convolution = kernels["cudnn-conv.1"]
    assert gpu_program.layer_of(convolution) == "discriminator conv_N forward"
    assert flops_of(convolution, program.operands(convolution.instruction)) == (
        2 * (2 * 49 * 7) * (9 * 5)
    )
    assert gpu_program.layout_of(convolution, program) == "Forward: bf16 b01f, bf16 o01i, bf16 b01f"


@pytest.mark.parametrize("name", ["a100", "h100", "h200", "l4"])
def test_chips_are_complete(name):
    """Every chip has its rates, and XLA's description states the same bandwidth."""
    chip = Chip.load(name)
    assert f"memory_bandwidth: {chip.memory_bytes_per_second:.0f}" in chip.target
    assert chip.bfloat16_flops > chip.tf32_flops > 1e13


def test_tables_beside_an_earlier_result(capsys):
    """Kinds of either result have a row, and totals are those of the file."""
    before = {
        "kinds": {"copy": [2, 3e9, 0.001]},
        "kernels": 2,
        "traffic": 3e9,
        "seconds": 0.001,
        "memory": 5e9,
    }
    now = before | {"kinds": {"sums": [1, 1e9, 0.0005]}, "kernels": 1, "traffic": 1e9}
    now |= {"convolutions": {"Forward: bf16 b01f": 7}}
    gpu_program.show("update", now, before, layers=False)
    printed = capsys.readouterr().out
    names = [line.split()[0] for line in printed.splitlines()[1:6]]
    assert names == ["update", "kinds", "sums", "copy", "total"]
    assert "7 Forward" in printed
    assert "5.00 before" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--forms=torch_float32"], "--forms: expected names that begin with ours"),
        (["--batches=1", "--devices=2"], "--batches: expected multiples of --devices 2"),
        (["--batches=2", "--devices=2", "--translation"], "--devices: expected 1"),
        (["--diff=nowhere.json"], "--diff nowhere.json: no such file"),
        ([], "expected JAX's plugin for CUDA: pip install"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(monkeypatch, capsys, arguments, message):
    """The last one is a machine without the plugin."""
    monkeypatch.setattr(gpu_program, "can_compile", lambda: False)
    with pytest.raises(SystemExit) as caught:
        gpu_program.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


needs_cuda = pytest.mark.skipif(
    not gpu_program.can_compile(), reason="needs the packages of requirements-cuda.txt"
)
SMALL = Updates(device="gpu", generator="resnet3")


@needs_cuda
@pytest.mark.gpu_program
@pytest.mark.parametrize(
    ("form", "devices"),
    [
        ("ours_bfloat16", 1),
        ("ours_float32", 1),
        ("ours_bfloat16+remat", 1),
        ("ours_bfloat16+micro2", 1),
        ("ours_bfloat16+steps2", 1),
        ("ours_bfloat16", 2),
        ("ours_bfloat16+triton", 2),
        ("ours_float32+triton+remat+micro2", 1),
    ],
)
def test_update_compiles_for_a_gpu(form, devices):
    """Every convolution is cuDNN's, in its fast layout, and no feature map is float32 in bfloat16.

    This holds with rematerialisation, micro-batches, several steps, and two devices as well.
    """
    form = parse_form(form)
    compiled = compile_update(Chip.load("h200"), SMALL, form, Cell(128, 2), devices)
    program = Program(compiled.as_text())
    kernels = program.kernels()
    assert not [k for k in kernels if k.instruction.opcode == "convolution"]
    dtype = "bf16" if form.precision == "bfloat16" else "f32"
    used = {gpu_program.layout_of(k, program) for k in kernels if flops_of_kernel(k, program)}
    images, weights = f"{dtype} b01f", f"{dtype} o01i"
    assert used - {f"BiasActivationForward: {images}, {weights}, {images}"} == {
        f"Forward: {images}, {weights}, {images}",
        f"BackwardInput: {images}, {weights}, {images}",
        f"BackwardFilter: {images}, {images}, {weights}",
    }
    if form.precision == "bfloat16":
        wide = [
            (k.instruction.name, shape)
            for k in kernels
            for shape in k.instruction.shapes
            if shape.dtype == "f32" and is_feature_map(shape)
        ]
        assert not wide
    kinds = [gpu_program.kind_of(k) for k in kernels]
    assert ("norms in one kernel" in kinds) == form.triton
    if devices > 1:
        assert any(gpu_program.kind_of(k) == "communication" for k in kernels)


def flops_of_kernel(kernel, program):
    """Count a kernel's operations."""
    return flops_of(kernel, program.operands(kernel.instruction))


def is_feature_map(shape):
    """Return whether an array is the result of a layer, of a MiB or more."""
    dims = shape.dims
    return len(dims) == 4 and dims[1] == dims[2] > 7 and dims[3] >= 64 and shape.bytes >= 2**20


@needs_cuda
@pytest.mark.gpu_program
@pytest.mark.parametrize(
    ("form", "batch", "kernels", "traffic", "memory"),
    [
        ("ours_bfloat16", 1, 1480, 8.9e9, 1.35e9),
        ("ours_bfloat16", 16, 1750, 110e9, 13.8e9),
        ("ours_bfloat16+triton", 1, 1000, 7.5e9, 1.35e9),
        ("ours_bfloat16+triton", 16, 1130, 91e9, 13.8e9),
        ("ours_bfloat16+triton+micro2", 16, 2200, 93e9, 7.5e9),
    ],
)
def test_published_update_stays_as_small_as_it_is(form, batch, kernels, traffic, memory):
    """Kernels, memory traffic and memory of an update at 256x256 in bfloat16 have a ceiling."""
    chip = Chip.load("h200")
    form = parse_form(form)
    result = measure(
        compile_update(chip, Updates(device="gpu"), form, Cell(256, batch)), chip, "bfloat16"
    )
    assert result["kernels"] < kernels
    assert result["traffic"] < traffic
    assert result["memory"] < memory
    # Moments and parameters are updated in place, in their own layout; sums over micro-batches are
    # copied.
    assert result["kinds"]["copy"][0] < (20 if form.micro_batches else 10)


@needs_cuda
@pytest.mark.gpu_program
def test_residual_blocks_in_few_passes():
    """With kernels of ours, a block reads or writes 14 feature maps outside of convolutions.

    Forward the first norm reads one map and writes one, the second also reads the residual stream;
    backward they read two and write one, and read three and write two. Reflection padding makes
    maps of 66x66 of 64x64.
    """
    chip, form = Chip.load("h200"), parse_form("ours_bfloat16+triton")
    measured = []
    for generator in ("resnet3", "resnet6"):
        task = Updates(device="gpu", generator=generator)
        measured.append(measure(compile_update(chip, task, form, Cell(256, 1)), chip, "bfloat16"))
    # Three blocks more, in six passes of one image, two of which are joined with another two.
    passes, feature_map = 6, 2 * 64 * 64 * 256
    (kernels, traffic), (more_kernels, more_traffic) = (
        result["kinds"]["norms in one kernel"][:2] for result in measured
    )
    assert more_kernels - kernels == 3 * 4 * 4
    assert 13 < (more_traffic - traffic) / (3 * passes * feature_map) < 14


@needs_cuda
@pytest.mark.gpu_program
def test_translation_compiles_for_a_gpu():
    """A translation is a forward pass of cuDNN's convolutions."""
    form = parse_form("ours_bfloat16")
    compiled = compile_translation(Chip.load("a100"), SMALL, form, Cell(128, 1))
    result = measure(compiled, Chip.load("a100"), "bfloat16")
    assert result["convolutions"] == {
        "Forward: bf16 b01f, bf16 o01i, bf16 b01f": 4 + 2 * 3,
        # Transposed convolutions.
        "BackwardInput: bf16 b01f, bf16 o01i, bf16 b01f": 2,
    }
    assert jnp.isfinite(result["seconds"])
