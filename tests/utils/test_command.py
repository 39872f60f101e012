"""Exit codes and output of programs that are interrupted or whose reader is gone."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cyclegan_jax.utils import command

ROOT = Path(__file__).parents[2]


class Left(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def leaving(monkeypatch):
    """Raise Left with the exit code instead of ending the process; restore signal handlers."""

    def leave(code):
        raise Left(code)

    monkeypatch.setattr(os, "_exit", leave)
    signums = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {signum: signal.getsignal(signum) for signum in signums}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_program_without_the_interpreters_end(signum):
    """Where threads of libraries still compute it crashes; the program's own clean-up is done."""
    unwound = []

    def main():
        try:
            os.kill(os.getpid(), signum)
            for _ in range(10**6):  # handlers run between instructions
                pass
        finally:
            unwound.append(True)

    with pytest.raises(Left) as left:
        command.run(main, "")
    assert left.value.args == (128 + signum,)
    assert unwound == [True]


def test_other_exit_codes_are_kept():
    """A program that reports failures ends as usual."""
    with pytest.raises(SystemExit) as stopped:
        command.run(lambda: sys.exit(1), "")
    assert stopped.value.code == 1


def test_a_reader_that_has_enough(monkeypatch):
    """As `head`: no traceback, also where the output was still in the buffer."""
    reader, writer = os.pipe()
    os.close(reader)
    with io.TextIOWrapper(io.FileIO(writer, "w")) as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(Left) as left:
            command.run(lambda: print("a table"), "")
        assert left.value.args == (128 + signal.SIGPIPE,)
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)


def test_ctrl_c_while_a_program_is_imported():
    """It ends the process at once; a program that only imports the package keeps its handler."""
    show = "import signal; print(signal.getsignal(signal.SIGINT) == signal.SIG_DFL)"
    started = f"import sys; sys.argv = ['-m']; import cyclegan_jax; {show}"
    for program, expected in ((started, "True"), (f"import cyclegan_jax; {show}", "False")):
        result = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
        )
        assert result.stdout.split() == [expected]
