"""Each kind of write of a run failing in turn, once or from then on as on a full disk.

    python -m tests.campaigns.writes --trials 100

Needs a C compiler. A library that is loaded before the run makes its n-th call that writes into the
work directory fail, with EIO or ENOSPC. The run must end with one clear line, or complete although
the call failed; nothing half-written may stand under its final name, and the next start must
complete the run to the bits of an undisturbed one.
"""

import argparse
import errno
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.campaigns import harness, runs

SOURCE = Path(__file__).with_name("failing_writes.c")
FIELDS = {
    "num_steps": 6,
    "checkpoint_every_steps": 2,
    "sample_every_steps": 2,
    "evaluate_every_steps": 2,
    "evaluation.best": "mean_iou",
    "log_every_steps": 1,
}
SECONDS = 300


def build_library(folder: Path) -> Path:
    """Compile the library whose calls fail."""
    library = folder / "failing_writes.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def campaign(args: argparse.Namespace) -> Iterator[harness.Outcome]:
    """Let random calls fail, in random ways."""
    rng = np.random.default_rng(args.seed)
    with TemporaryDirectory() as name:
        folder = Path(name)
        library = build_library(folder)
        expected, count = folder / "undisturbed", folder / "count"
        environment = {
            "LD_PRELOAD": str(library),
            "FAIL_BELOW": f"{expected}/",
            "FAIL_COUNT": str(count),
        }
        process = runs.start(expected, fields=FIELDS, environment=environment)
        if process.wait(SECONDS) != 0:
            raise RuntimeError(runs.log_of(expected))
        calls = int(count.read_text())
        print(f"{calls} calls that write", flush=True)
        for number in range(args.trials):
            at = int(rng.integers(1, calls + 1))
            code = (errno.ENOSPC, errno.EIO)[int(rng.integers(2))]
            always = bool(rng.random() < 0.5)
            workdir = folder / f"run_{number}"
            environment = {
                "LD_PRELOAD": str(library),
                "FAIL_BELOW": f"{workdir}/",
                "FAIL_AT": str(at),
                "FAIL_ERRNO": str(code),
            }
            if always:
                environment["FAIL_ALWAYS"] = "1"
            what = f"call {at}{' and later ones' * always}: {errno.errorcode[code]}"
            began = time.monotonic()
            try:
                ended = disturbed(workdir, environment, expected)
            except harness.WrongResultError as error:
                yield harness.Outcome("wrong result", f"{what}: {error}", time.monotonic() - began)
                if args.keep is not None:
                    subprocess.run(["cp", "-r", workdir, args.keep])
            else:
                kind = "completed" if ended == "" else "refused"
                yield harness.Outcome(kind, f"{what}: {ended}", time.monotonic() - began)
            subprocess.run(["rm", "-rf", workdir])


def disturbed(workdir: Path, environment: dict[str, str], expected: Path) -> str:
    """Run with failing calls, then without; return the line of the first run, if it stopped."""
    process = runs.start(workdir, fields=FIELDS, environment=environment)
    try:
        code = process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise harness.WrongResultError(f"does not end: {runs.log_of(workdir)[-1000:]}") from None
    runs.check_log(workdir)
    lines = runs.errors(workdir)
    if code != 0 and (code != 1 or len(lines) != 1):
        raise harness.WrongResultError(
            f"exit code {code}, {len(lines)} lines: {runs.log_of(workdir)[-2000:]}"
        )
    workdir.with_suffix(".log").unlink()
    code = runs.start(workdir, fields=FIELDS).wait(SECONDS)
    runs.check_log(workdir)
    if code != 0:
        raise harness.WrongResultError(f"cannot be resumed: {runs.log_of(workdir)[-2000:]}")
    runs.compare(workdir, expected)
    return lines[0] if lines else ""


if __name__ == "__main__":
    harness.main(__doc__, campaign, trials=100)
