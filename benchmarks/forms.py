"""Forms of a computation that benchmarks compare, by name.

A name is a base and modifiers, as in `ours_bfloat16+steps8` or `torch_tf32+compile`:

    ours_float32, ours_bfloat16    with +stepsN (updates per dispatch), +remat, +microN
                                   (micro-batches; +micro: one pair each; the default is one pair
                                   each on a CPU, one batch on a GPU), +triton (our own kernels for
                                   norms, on a GPU)
    torch_float32                  PyTorch, eager, in full float32
    torch_tf32                     in float32 that a GPU's tensor cores may round, like JAX's
    torch_bfloat16                 autocast; +channels_last selects that layout
    torch_compile, torch_graphs    the fastest of the above with torch.compile; the latter
                                   replayed from CUDA graphs
    +compile, +graphs              the same for a named form
    files                          `cyclegan_jax.translate` from file to file, in
                                   `benchmarks.translate` only

Modifiers about gradients and updates are for `benchmarks.train_step` only.
"""

import argparse
import re
from dataclasses import dataclass

# Precision of each base. "fastest" is determined while measuring.
BASES = {
    "ours_float32": "float32",
    "ours_bfloat16": "bfloat16",
    "torch_float32": "float32",
    "torch_tf32": "tf32",
    "torch_bfloat16": "bfloat16",
    "torch_compile": "fastest",
    "torch_graphs": "fastest",
    "files": "float32",
}
_NUMBERED = re.compile(r"(steps|micro)(\d*)")


@dataclass(frozen=True)
class Form:
    """A form of a computation.

    Attributes:
        name: Name on the command line.
        precision: float32, tf32, bfloat16, or fastest.
        channels_last: Whether PyTorch uses that layout.
        compiled: Whether PyTorch uses torch.compile.
        graphs: Whether it also replays CUDA graphs.
        steps: Our updates per dispatch.
        remat: Whether our gradients recompute layers.
        micro_batches: Our micro-batches; 0 for one per pair, None for the default.
        triton: Whether our norms use kernels of our own.
    """

    name: str
    precision: str
    channels_last: bool = False
    compiled: bool = False
    graphs: bool = False
    steps: int = 1
    remat: bool = False
    micro_batches: int | None = None
    triton: bool = False

    @property
    def is_ours(self) -> bool:
        """True if the form is ours rather than PyTorch's."""
        return self.name.startswith("ours")

    @property
    def is_eager(self) -> bool:
        """True if PyTorch runs it without compilation."""
        return self.name.startswith("torch") and not (self.compiled or self.graphs)

    @property
    def is_of_training(self) -> bool:
        """True if it has modifiers of updates."""
        return self.steps > 1 or self.remat or self.triton or self.micro_batches is not None

    def multiplied_in(self, device: str) -> str:
        """Return the precision of its multiplications: on a GPU, JAX rounds float32 too."""
        rounded = (
            not self.name.startswith("torch") and self.precision == "float32" and device == "gpu"
        )
        return "tf32" if rounded else self.precision


def parse_form(name: str) -> Form:
    """Parse the name of a form.

    Raises:
        argparse.ArgumentTypeError: The name is unknown.
    """
    base, *modifiers = name.split("+")
    if base not in BASES:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(BASES)}, got {base!r}")
    fields: dict[str, int | bool] = {}
    if base in ("torch_compile", "torch_graphs"):
        modifiers.append(base.removeprefix("torch_"))
    for modifier in modifiers:
        numbered = _NUMBERED.fullmatch(modifier)
        if base.startswith("ours") and numbered and (numbered[1] == "micro" or numbered[2]):
            field = {"steps": "steps", "micro": "micro_batches"}[numbered[1]]
            fields[field] = int(numbered[2] or 0)
        elif base.startswith("ours") and modifier in ("remat", "triton"):
            fields[modifier] = True
        elif base.startswith("torch") and modifier in ("channels_last", "compile", "graphs"):
            fields["compiled" if modifier == "compile" else modifier] = True
        else:
            raise argparse.ArgumentTypeError(
                f"{name}: expected +stepsN, +microN, +remat or +triton for ours, and "
                f"+channels_last, +compile or +graphs for PyTorch's, got +{modifier}"
            )
    return Form(name, BASES[base], **fields)  # type: ignore[arg-type]


def parse_forms(text: str) -> list[Form]:
    """Parse a comma-separated list of forms."""
    return [parse_form(name) for name in text.split(",")]


def parse_numbers(text: str) -> list[int]:
    """Parse a comma-separated list of positive integers."""
    numbers = [int(word) for word in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"expected integers of at least 1, got {text}")
    return numbers


def resolve(form: Form, seconds: dict[Form, float]) -> Form:
    """Set the precision and layout of a PyTorch form to those of the fastest eager form.

    Args:
        form: Returned unchanged unless its precision is "fastest".
        seconds: Times of the forms measured so far.
    """
    if form.precision != "fastest":
        return form
    eager = {f: s for f, s in seconds.items() if f.is_eager}
    fastest = min(eager, key=eager.__getitem__) if eager else parse_form(DEFAULT_FASTEST)
    return Form(form.name, fastest.precision, fastest.channels_last, form.compiled, form.graphs)


# For "fastest" where no eager form was measured.
DEFAULT_FASTEST = "torch_bfloat16+channels_last"
