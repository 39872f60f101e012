"""The forms of a computation that benchmarks compare, by name.

A name is a base and modifiers, as in `ours_bfloat16+steps8` or `torch_tf32+compile`:

    ours_float32, ours_bfloat16    with +stepsN (updates handed over at a time), +remat, +microN
                                   (micro-batches; +micro alone: of one pair each; without:
                                   by itself, one pair each on a CPU, one batch on a GPU)
    torch_float32                  PyTorch, eager, in true float32
    torch_tf32                     in float32 that a GPU's tensor cores may round, as JAX's are
    torch_bfloat16                 autocast; with +channels_last in that layout
    torch_compile, torch_graphs    what is fastest of the above, by torch.compile; the latter as
                                   one program each way, replayed from CUDA graphs
    +compile, +graphs              the same for one that is named
    files                          of `benchmarks.translate` alone: the program, from file to file

What concerns gradients and several updates is of `benchmarks.train_step` alone.
"""

import argparse
import re
from dataclasses import dataclass

# Precision of each base. "fastest" is found while measuring.
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
    """One form.

    Attributes:
        name: as it was written.
        precision: float32, tf32, bfloat16, or fastest.
        channels_last: PyTorch's layout.
        compiled: by torch.compile.
        graphs: likewise, and replayed from CUDA graphs.
        steps: of our updates, how many are handed over at a time.
        remat: ours, with layers recomputed for gradients.
        micro_batches: ours; 0 for as many as there are pairs, None for as many as it takes.
    """

    name: str
    precision: str
    channels_last: bool = False
    compiled: bool = False
    graphs: bool = False
    steps: int = 1
    remat: bool = False
    micro_batches: int | None = None

    @property
    def is_ours(self) -> bool:
        """Or else PyTorch's."""
        return self.name.startswith("ours")

    @property
    def is_eager(self) -> bool:
        """Whether PyTorch computes it layer by layer."""
        return self.name.startswith("torch") and not (self.compiled or self.graphs)

    @property
    def is_of_training(self) -> bool:
        """Whether it says something that only updates can do."""
        return self.steps > 1 or self.remat or self.micro_batches is not None

    def multiplied_in(self, device: str) -> str:
        """The precision of its products: JAX's of float32, too, are rounded on a GPU."""
        rounded = (
            not self.name.startswith("torch") and self.precision == "float32" and device == "gpu"
        )
        return "tf32" if rounded else self.precision


def parse_form(name: str) -> Form:
    """The form of that name.

    Raises:
        argparse.ArgumentTypeError: for a name that there is not.
    """
    base, *modifiers = name.split("+")
    if base not in BASES:
        raise argparse.ArgumentTypeError(f"form {base!r}; choose from {', '.join(BASES)}")
    fields: dict[str, int | bool] = {}
    if base in ("torch_compile", "torch_graphs"):
        modifiers.append(base.removeprefix("torch_"))
    for modifier in modifiers:
        numbered = _NUMBERED.fullmatch(modifier)
        if base.startswith("ours") and numbered and (numbered[1] == "micro" or numbered[2]):
            field = {"steps": "steps", "micro": "micro_batches"}[numbered[1]]
            fields[field] = int(numbered[2] or 0)
        elif base.startswith("ours") and modifier == "remat":
            fields["remat"] = True
        elif base.startswith("torch") and modifier in ("channels_last", "compile", "graphs"):
            fields["compiled" if modifier == "compile" else modifier] = True
        else:
            raise argparse.ArgumentTypeError(
                f"form {name!r}: ours take +stepsN, +microN and +remat, PyTorch's +channels_last, "
                "+compile and +graphs"
            )
    return Form(name, BASES[base], **fields)  # type: ignore[arg-type]


def parse_forms(text: str) -> list[Form]:
    """Those of a list with commas."""
    return [parse_form(name) for name in text.split(",")]


def parse_numbers(text: str) -> list[int]:
    """Whole numbers from 1, with commas."""
    numbers = [int(word) for word in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text}: numbers from 1 were expected")
    return numbers


def resolve(form: Form, seconds: dict[Form, float]) -> Form:
    """A form of PyTorch's whose precision and layout are those of the fastest eager one.

    Args:
        form: returned as it is where its precision is known.
        seconds: of forms measured so far.
    """
    if form.precision != "fastest":
        return form
    eager = {f: s for f, s in seconds.items() if f.is_eager}
    fastest = min(eager, key=eager.__getitem__) if eager else parse_form(DEFAULT_FASTEST)
    return Form(form.name, fastest.precision, fastest.channels_last, form.compiled, form.graphs)


# Where none was measured.
DEFAULT_FASTEST = "torch_bfloat16+channels_last"
