"""Damaged files of weights, as `python -m cyclegan_jax.torch_weights import` gets them.

    python -m tests.campaigns.weights --trials 500

Each trial damages one file of PyTorch (both containers), Keras or Paddle: bytes changed, removed or
inserted anywhere, the file truncated, absurd numbers. It must be refused in one line, or be
imported into a work directory whose networks have the detected shapes; an import that is refused
leaves no work directory.
"""

import functools
import io
import tempfile
import zipfile
from pathlib import Path

import jax
import numpy as np

from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.torch_weights.program import import_networks
from cyclegan_jax.utils.errors import UserError
from tests.campaigns import harness
from tests.campaigns.images import damage
from tests.torch_weights import originals, published


@functools.cache
def intact_files() -> list[tuple[bytes, str]]:
    """Return the bytes of intact files of all kinds, and their suffixes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        original = originals.network("generator", originals.changed("generator", {"blocks": 1}))
        paths = [
            originals.save(folder / "zipped.pth", original),
            originals.save(folder / "legacy.pth", original, zipped=False),
        ]
        for file, module in (
            ("gan.pth", published.pytorch_gan_generator(2, 1)),
            ("dgai.pth", published.DGAIGenerator(2, 1)),
        ):
            paths.append(originals.save(folder / file, module))
        keras = published.narrow(
            generator__norm="instance_affine_std", generator__variant="resnet9_same"
        )
        paddle = published.narrow(
            generator__norm="instance_affine", generator__variant="resnet7_single"
        )
        paths.append(
            published.write_keras(
                folder / "keras.hdf5", published.recipe_network("generator", keras)
            )
        )
        state = published.paddle_state(published.recipe_network("generator", paddle))
        paths.append(published.write_paddle(folder / "paddle.pdparams", state))
        return [(path.read_bytes(), path.suffix) for path in paths]


def damage_member(rng: np.random.Generator, data: bytes) -> bytes:
    """Damage a file inside a zip archive, whose checksums are valid, or the archive itself."""
    if rng.random() < 0.3:
        return slightly_damaged(rng, data)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(stream, "w") as target:
        names = source.namelist()
        pickles = [name for name in names if name.endswith("data.pkl")]
        damaged = pickles[0] if rng.random() < 0.8 else str(rng.choice(names))
        for name in names:
            content = source.read(name)
            target.writestr(name, slightly_damaged(rng, content) if name == damaged else content)
    return stream.getvalue()


def slightly_damaged(rng: np.random.Generator, data: bytes) -> bytes:
    """Change one to three bytes, or damage more."""
    if rng.random() < 0.3 or not data:
        return damage(rng, data)
    changed = bytearray(data)
    # The structure of most files is at their beginning.
    end = len(data) if rng.random() < 0.5 else min(len(data), 2000)
    for _ in range(int(rng.integers(1, 4))):
        changed[int(rng.integers(end))] = int(rng.integers(256))
    return bytes(changed)


def trial(seed: int, folder: Path) -> str:
    """Damage a file and import it."""
    rng = np.random.default_rng(seed)
    intact = intact_files()
    data, suffix = intact[int(rng.integers(len(intact)))]
    data = damage_member(rng, data) if data[:2] == b"PK" else slightly_damaged(rng, data)
    path, workdir = folder / f"weights{suffix}", folder / "run"
    path.write_bytes(data)
    try:
        config = import_networks(workdir, {"gen_ab": path})
    except UserError:
        if workdir.exists():
            raise harness.WrongResultError("refused, but there is a work directory") from None
        raise
    _, params = Checkpoints(workdir, config.to_dict(), read_only=True).restore_params()
    return f"{sum(x.size for x in jax.tree.leaves(params))} parameters"


if __name__ == "__main__":
    run = harness.in_processes(trial, seconds=120, mib=4000, growth=1500)
    harness.main(__doc__, harness.separate_trials(run), trials=500)
