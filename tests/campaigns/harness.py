"""Run the trials of a campaign, in processes that they may crash, and report their outcomes."""

import argparse
import atexit
import collections
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from cyclegan_jax.utils.errors import UserError

# Everything else is a failure of the program.
GOOD = ("completed", "refused")
MIB = 2**20

# A trial: (seed, its own empty folder) -> a few words about what happened.
# Raises UserError, or what else the program raises.
Trial = Callable[[int, Path], str]


class WrongResultError(Exception):
    """A trial that completed with a wrong result."""


class Outcome(NamedTuple):
    """The end of a trial.

    Attributes:
        kind: One of `GOOD`, or "wrong result", "traceback", "crash", "too slow", "too much memory",
            "several lines".
        detail: What happened, for example a refusal's message.
        seconds: Duration.
        mib: Growth of the process's memory at its peak.
    """

    kind: str
    detail: str
    seconds: float = 0.0
    mib: float = 0.0


def attempt(trial: Trial, seed: int, folder: Path) -> Outcome:
    """Run a trial in this process."""
    before = reset_peak()
    start = time.monotonic()
    try:
        kind, detail = "completed", trial(seed, folder)
    except UserError as error:
        detail = str(error)
        kind = "several lines" if "\n" in detail else "refused"
    except WrongResultError as error:
        kind, detail = "wrong result", str(error)
    except MemoryError:
        kind, detail = "too much memory", traceback.format_exc()
    except Exception:
        kind, detail = "traceback", traceback.format_exc()
    return Outcome(kind, detail, time.monotonic() - start, memory("VmHWM") - before)


def reset_peak() -> float:
    """Set the process's peak memory to its present one, and return that in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(name: str, process: int | str = "self") -> float:
    """Return VmRSS, or its peak VmHWM, of a process in MiB."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/{process}/status has no {name}")


class Worker:
    """A process in which trials run one after the other, and which is replaced when one ends it."""

    def __init__(self, mib: int):
        """Start nothing yet; a trial that needs `mib` more than the process has gets MemoryError.

        Args:
            mib: The limit, above what the process has once the campaign is imported.
        """
        self._mib = mib
        atexit.register(self.close)
        self._pool: ProcessPoolExecutor | None = None

    def run(self, trial: Trial, seed: int, folder: Path, seconds: float) -> Outcome:
        """Run a trial; one that takes longer is ended together with its process."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
            # Imports the campaign, which takes seconds, before the limit is set.
            self._pool.submit(set_up, self._mib, trial).result()
        future: Future[Outcome] = self._pool.submit(attempt, trial, seed, folder)
        try:
            return future.result(seconds)
        except TimeoutError:
            self.close()
            return Outcome("too slow", f"more than {seconds} s", seconds)
        except BrokenProcessPool:
            self.close()
            return Outcome("crash", "the process ended")

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            for process in list(self._pool._processes.values()):
                process.kill()
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def set_up(mib: int, trial: Trial) -> None:
    """Limit this process's address space to `mib` above its present size, and silence it."""
    del trial  # unpickling it imported the campaign
    for stream in (1, 2):  # runs print their metrics, and libraries report each damaged file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    limit = int(memory("VmSize") + mib) * MIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def in_processes(
    trial: Trial, *, seconds: float = 60, mib: int = 4096, growth: float = 4096
) -> Callable[[int, Path], Outcome]:
    """Make a function that runs trials in a `Worker`.

    Args:
        trial: The trial.
        seconds: Limit of its duration.
        mib: Limit of its address space, beyond which an allocation fails.
        growth: Limit of its memory in MiB, which a trial that completes may not exceed either.
    """
    worker = Worker(mib)

    def run(seed: int, folder: Path) -> Outcome:
        outcome = worker.run(trial, seed, folder, seconds)
        if outcome.kind in GOOD and outcome.mib > growth:
            return outcome._replace(kind="too much memory")
        return outcome

    return run


def separate_trials(run: Callable[[int, Path], Outcome]) -> "Campaign":
    """Make a campaign of trials that do not depend on each other, each with an empty folder."""

    def campaign(args: argparse.Namespace) -> Iterator[Outcome]:
        with tempfile.TemporaryDirectory() as temporary:
            for number in range(args.first, args.first + args.trials):
                folder = Path(temporary) / str(number)
                folder.mkdir()
                outcome = run(args.seed * 1_000_000 + number, folder)
                if outcome.kind not in GOOD and args.keep is not None:
                    shutil.copytree(folder, args.keep / str(number), dirs_exist_ok=True)
                shutil.rmtree(folder, ignore_errors=True)
                yield outcome

    return campaign


# (--trials, --first, --seed, --keep) -> the outcome of each trial.
Campaign = Callable[[argparse.Namespace], Iterable[Outcome]]


def main(description: str | None, campaign: Campaign, trials: int) -> None:
    """Run a campaign from the command line.

    Args:
        description: Its docstring.
        campaign: Runs the trials.
        trials: Default number of trials.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=trials)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--keep", type=Path, help="folder for the files of failed trials")
    parser.add_argument("--json", type=Path, help="file for all outcomes")
    args = parser.parse_args()
    start = time.monotonic()
    outcomes: list[Outcome] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for number, outcome in enumerate(campaign(args), args.first):
            outcomes.append(outcome)
            if outcome.kind not in GOOD:
                print(f"trial {number}: {outcome.kind}: {outcome.detail}", flush=True)
    except KeyboardInterrupt:
        print("stopped before the last trial")
    for line in summary(outcomes):
        print(line)
    failed = sum(outcome.kind not in GOOD for outcome in outcomes)
    print(f"{len(outcomes)} trials in {(time.monotonic() - start) / 60:.1f} min, {failed} failed")
    if args.json is not None:
        args.json.write_text(json.dumps([outcome._asdict() for outcome in outcomes], indent=1))
    sys.exit(1 if failed else 0)


def summary(outcomes: list[Outcome]) -> Iterator[str]:
    """Yield a line per kind of outcome."""
    for kind, count in collections.Counter(outcome.kind for outcome in outcomes).most_common():
        of_kind = [outcome for outcome in outcomes if outcome.kind == kind]
        yield (
            f"{kind}: {count}, at most {max(o.seconds for o in of_kind):.1f} s, "
            f"{max(o.mib for o in of_kind):.0f} MiB"
        )
