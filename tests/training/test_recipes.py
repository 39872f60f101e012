"""Every recipe runs from its configuration, through main.py, on data in its own layout."""

import csv
import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from PIL import Image

import main
from cyclegan_jax import config as config_lib
from cyclegan_jax.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]
SIZE = 16
# Small networks, which compile in seconds.
SMALL = {
    "generator.width": 2,
    "generator.blocks": 1,
    "discriminator.width": 2,
    "discriminator.layers": 1,
    "data.load_size": 20,
    "data.crop_size": SIZE,
    "sample_images": 1,
    "checkpoint_every_steps": 1,
}


def images(folder: Path, names: list[str]) -> None:
    """Write noise images under these names."""
    random = np.random.default_rng(0)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 36, 3), np.uint8)).save(path)


def folders(root: Path) -> dict[str, object]:
    """Write trainA, trainB, testA and testB; return the fields for them."""
    for split in ("trainA", "trainB", "testA", "testB"):
        images(root / split, ["1.png", "2.jpg"])
    return {"data.source": "folder", "data.dir": root}


def lists(root: Path) -> dict[str, object]:
    """Write folders, and list files of the training images; return the fields for them."""
    for domain in ("A", "B"):
        images(root / f"train{domain}", ["1.jpg", "2.jpg", "not_listed.jpg"])
        (root / f"train{domain}.txt").write_text(f"train{domain}/1.jpg\ntrain{domain}/2.jpg\n")
    images(root / "testA", ["1.jpg"])
    return {"data.dir": root}


def faces(root: Path) -> dict[str, object]:
    """Write a folder and a table of attributes; return the fields for them."""
    rows = [
        {"Black_Hair": 1, "Blond_Hair": -1, "Eyeglasses": -1},
        {"Black_Hair": -1, "Blond_Hair": 1, "Eyeglasses": 1},
        {"Black_Hair": -1, "Blond_Hair": -1, "Eyeglasses": -1},
    ]
    names = [f"{i:06d}.jpg" for i in range(1, 4)]
    images(root / "img_align_celeba", names)
    with (root / "list_attr_celeba.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image_id", *rows[0]])
        writer.writeheader()
        writer.writerows({"image_id": n} | row for n, row in zip(names, rows, strict=True))
    # Faces are resized to the size of the networks' images.
    return {"data.dir": root, "data.load_size": SIZE}


# `celeba_glasses` is resumed below: it has the compiled programs of `celeba_hair`.
RECIPES = {
    "horse2zebra": folders,
    "horse2zebra_224": lists,
    "celeba_hair": faces,
    "firewatch": lambda root: folders(root) | {"data.load_size": SIZE},
    "monet2photo": folders,
}


@pytest.fixture
def run(monkeypatch):
    """A function that runs `python main.py --config ...` in this process."""

    def run(recipe: str, workdir: Path, changes: dict[str, object]) -> None:
        fields = [f"--config.{name}={value}" for name, value in changes.items()]
        config = ROOT / "configs" / f"{recipe}.py"
        argv = ["main.py", f"--config={config}", f"--workdir={workdir}", *fields]
        # The flag of configurations reads the command line.
        monkeypatch.setattr(sys, "argv", argv)
        for name in [name for name in flags.FLAGS if name.startswith("config.")]:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
        config_lib.parse_flags(argv)
        logging.getLogger("absl").setLevel(logging.INFO)
        main.main([])

    return run


@pytest.mark.parametrize("recipe", RECIPES)
def test_trains(recipe, run, tmp_path):
    """A run of one update stores its fields, a checkpoint, and samples of both directions."""
    workdir = tmp_path / "run"
    changes = SMALL | RECIPES[recipe](tmp_path / "data") | {"num_steps": 1}
    run(recipe, workdir, changes)
    assert Checkpoints(workdir, read_only=True).steps == [1]
    stored = config_lib.flatten(json.loads((workdir / "config.json").read_text()))
    for name, value in changes.items():
        assert stored[name] == (str(value) if isinstance(value, Path) else value)
    for direction in ("a_to_b", "b_to_a"):
        strip = Image.open(workdir / "samples" / f"00000001_{direction}.png")
        # Real, translated, reconstructed and identity side by side.
        assert strip.width >= 4 * SIZE
        assert strip.height >= SIZE


def test_resumes(run, tmp_path, caplog):
    """The same command with more updates continues a run."""
    caplog.set_level(logging.INFO)
    workdir = tmp_path / "run"
    changes = SMALL | faces(tmp_path / "data")
    run("celeba_glasses", workdir, changes | {"num_steps": 1})
    run("celeba_glasses", workdir, changes | {"num_steps": 2})
    assert "Resuming from the checkpoint of step 1" in caplog.text
    assert Checkpoints(workdir, read_only=True).steps == [1, 2]
