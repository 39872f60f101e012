"""The translate program refuses to lose data, with one line that says what is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.translate import main
from cyclegan_jax.utils import image_io
from cyclegan_jax.utils.errors import UserError
from tests.translating import call, files, grey, refusal
from tests.translators import save_run

ROOT = Path(__file__).parent.parent


def test_nothing_is_overwritten_without_the_flag(tmp_path, negatives):
    """Before the model is loaded, the first existing file is named, and how many there are."""
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        image_io.write_image(tmp_path / "in" / name, grey(8, 8))
    output = tmp_path / "out"
    call(tmp_path / "in", output)
    (output / "a.png").unlink()
    before = (output / "b.png").read_bytes()
    image_io.write_image(tmp_path / "in" / "b.png", grey(8, 8))
    message = refusal(tmp_path / "in", output)
    assert message == f"{output / 'b.png'} (and 1 more): exists; --overwrite replaces it"
    assert (output / "b.png").read_bytes() == before
    assert not (output / "a.png").exists()
    assert len(negatives) == 1
    call(tmp_path / "in", output, "--overwrite")
    assert (output / "b.png").read_bytes() != before


def test_names_that_differ_in_case(tmp_path, negatives, monkeypatch):
    """Each has its own file, except on file systems that do not distinguish case."""
    (tmp_path / "in").mkdir()
    for name in ("Cat.png", "cat.bmp"):
        image_io.write_image(tmp_path / "in" / name, grey(8, 8))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        message = refusal(tmp_path / "in", tmp_path / "out", "--format", "png")
    assert "would both be written" in message
    call(tmp_path / "in", tmp_path / "out", "--format", "png")
    assert files(tmp_path / "out") == ["Cat.png", "cat.png"]


def test_output_named_like_an_image(tmp_path, negatives):
    """A folder with the suffix of an image is not created, but used where it exists."""
    image_io.write_image(tmp_path / "a.png", grey(8, 8))
    assert "expected a folder" in refusal(tmp_path / "a.png", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()
    (tmp_path / "out.png").mkdir()
    call(tmp_path / "a.png", tmp_path / "out.png")
    assert files(tmp_path / "out.png") == ["a.png"]


def test_home_is_expanded(tmp_path, monkeypatch):
    """The shell does not expand ~ after an equals sign."""
    monkeypatch.setenv("HOME", str(tmp_path))
    image_io.write_image(tmp_path / "a.png", grey(8, 8))
    with pytest.raises(UserError, match=f"{tmp_path}/run"):
        main(["--workdir=~/run", "--input=~/a.png", "--output=~/out"])


def test_output_below_the_input_is_not_read_again(tmp_path, negatives):
    """The second run translates the same images as the first."""
    image_io.write_image(tmp_path / "a.png", grey(8, 8))
    for _ in range(2):
        call(tmp_path, tmp_path / "out", "--overwrite")
    assert files(tmp_path / "out") == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--input", "{}/none"], "there is no such image or folder"),
        (["--input", "{}/empty"], "no images found"),
        (["--input", "{}/in/a.gif"], ".gif files cannot be written; choose a --format"),
        (["--output", "{}/in"], "expected another folder"),
        (["--output", "{}/in", "--input", "{}/in/a.png", "--overwrite"], "is an image to"),
        (["--format", "png"], "would both be written"),
        (["--format", "gif"], "invalid choice: 'gif'"),
        (["--format", "pgm", "--input", "{}/in/a.png"], "PGM cannot hold colour"),
        (["--batch_size", "x"], "invalid int value: 'x'"),
        (["--directoin", "a_to_b"], "unrecognized arguments"),
    ],
)
def test_mistakes_are_one_line(tmp_path, negatives, arguments, expected):
    """Wrong paths, names, formats and flags are refused before anything is written."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "in").mkdir()
    for name in ("a.png", "a.jpg"):
        image_io.write_image(tmp_path / "in" / name, grey(8, 8))
    (tmp_path / "in" / "a.gif").write_bytes(b"GIF89a")
    before = files(tmp_path)
    arguments = [argument.format(tmp_path) for argument in arguments]
    assert expected in refusal(tmp_path / "in", tmp_path / "out", *arguments)
    assert files(tmp_path) == before


def test_alpha_is_not_dropped_for_a_format(tmp_path, negatives, monkeypatch, capsys):
    """An image that its format cannot hold is named and not computed; others are translated."""
    computed = []
    apply = Translator.apply

    def recorded(self, *args, **options):
        computed.append(args)
        return apply(self, *args, **options)

    monkeypatch.setattr(Translator, "apply", recorded)
    (tmp_path / "in").mkdir()
    for name, channels in (("a.png", 4), ("b.png", 3)):
        image_io.write_image(tmp_path / "in" / name, grey(8, 8, channels))
    with pytest.raises(SystemExit):
        call(tmp_path / "in", tmp_path / "out", "--format", "jpg")
    assert "a.jpg: JPEG cannot hold colour with alpha" in capsys.readouterr().err
    assert files(tmp_path / "out") == ["b.jpg"]
    assert len(computed) == 1


def test_folders_that_cannot_be_created_are_named(tmp_path, negatives, capsys):
    """A file has the name of the output folder."""
    image_io.write_image(tmp_path / "a.png", grey(8, 8))
    (tmp_path / "out").write_text("")
    with pytest.raises(SystemExit):
        call(tmp_path / "a.png", tmp_path / "out" / "below")
    assert "cannot be created" in capsys.readouterr().err


def test_ctrl_c_leaves_complete_files_only(tmp_path, negatives, monkeypatch, capsys):
    """All files written before ctrl-C can be read, and there are no others."""
    images = {f"{i}.png": grey(8, 8) for i in range(9)}
    for name, image in images.items():
        image_io.write_image(tmp_path / name, image)
    apply, calls = Translator.apply, []

    def interrupted(self, *args, **options):
        calls.append(args)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return apply(self, *args, **options)

    monkeypatch.setattr(Translator, "apply", interrupted)
    with pytest.raises(SystemExit) as stopped:
        call(tmp_path, tmp_path / "out")
    assert stopped.value.code == 130
    written = [path.name for path in (tmp_path / "out").iterdir()]
    assert len(written) == 5
    assert "stopped: 5 of 9 images done" in capsys.readouterr().err
    for name in written:
        np.testing.assert_array_equal(
            image_io.read_image(tmp_path / "out" / name), 255 - images[name]
        )


def test_the_command_needs_a_work_directory_and_no_tensorflow(tmp_path):
    """The command runs where TensorFlow, TFDS, CLU and Grain are not installed."""
    save_run(tmp_path / "run", (3,))
    image = grey(8, 8)
    image_io.write_image(tmp_path / "a.png", image)
    program = """
import runpy, sys
for name in ("tensorflow", "tensorflow_datasets", "clu", "grain", "tensorboard", "torch"):
    sys.modules[name] = None
runpy.run_module("cyclegan_jax.translate", run_name="__main__")
"""

    def run(*more):
        arguments = ["--workdir", "run", "--input", "a.png", "--output", "out", *more]
        command = [sys.executable, "-c", program, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        options = {"cwd": tmp_path, "capture_output": True, "text": True, "env": environment}
        return subprocess.run(command, **options)

    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    expected = Translator.load(tmp_path / "run")(image)
    np.testing.assert_array_equal(image_io.read_image(tmp_path / "out" / "a.png"), expected)
    refused = run("--checkpoint", "9", "--overwrite")
    assert refused.returncode == 1
    assert refused.stderr == "error: run/checkpoints: no checkpoint of step 9; expected one of 3\n"
