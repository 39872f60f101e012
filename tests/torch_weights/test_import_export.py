"""Networks of the PyTorch original are imported and exported; files that do not fit are refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import torch_networks  # noqa: E402
from cyclegan_jax import config as config_lib  # noqa: E402
from cyclegan_jax.build import build_state  # noqa: E402
from cyclegan_jax.checkpoint import Checkpoints  # noqa: E402
from cyclegan_jax.default_config import get_config  # noqa: E402
from cyclegan_jax.torch_weights.formats import exporting  # noqa: E402
from cyclegan_jax.torch_weights.program import main  # noqa: E402
from cyclegan_jax.training import train  # noqa: E402
from cyclegan_jax.utils.errors import UserError  # noqa: E402
from tests import tiny  # noqa: E402
from tests.parity import change  # noqa: E402
from tests.torch_params import to_flax  # noqa: E402
from tests.torch_weights.originals import assert_same, changed, network, save  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
# The original's D_A judges images of B.
FILES = {"gen_ab": "G_A", "gen_ba": "G_B", "disc_a": "D_B", "disc_b": "D_A"}


def refusal(*arguments: Any) -> str:
    """Return the one line with which the command line is refused."""
    with pytest.raises(UserError) as caught:
        main([str(argument) for argument in arguments])
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """Write files of four narrow networks with 3 channels, and of others that do not fit them."""
    config = changed("generator", {"variant": "resnet3"})
    config.data.channels_a = 3
    networks = {
        "gen_ab": network("generator", config),
        "gen_ba": network("generator", config, seed=1),
        "disc_a": network("discriminator", config, seed=2),
        "disc_b": network("discriminator", config, seed=3),
        "unet": torch_networks.UNetGenerator(3, 3, 2, depth=8),
        "wide": torch_networks.ResNetGenerator(3, 3, 4, 3),
        "grey": torch_networks.ResNetGenerator(1, 3, 2, 3),
        "pixel": torch_networks.PixelDiscriminator(3, 2),
        "shallow": torch_networks.UNetGenerator(3, 3, 2, depth=5),
        "channels": torch_networks.ResNetGenerator(65, 3, 2, 3),
        "foreign": torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3)),
    }
    return {name: save(tmp_path / f"{name}.pth", net) for name, net in networks.items()}


def test_files_that_do_not_fit_a_configuration(tmp_path, files):
    """Another variant, and tensors that are missing or of another shape, are named."""
    workdir = tmp_path / "run"
    first = ("import", "--workdir", workdir, "--config", "configs/horse2zebra.py", "--gen_ab")
    message = refusal(*first, files["unet"])
    assert f"{files['unet']}: expected generator.variant resnet9, got unet128 or unet256" in message
    message = refusal(*first, files["gen_ab"])
    assert "missing: model.13.conv_block.1.weight" in message
    assert "of another shape: model.1.weight [2, 3, 7, 7] for [64, 3, 7, 7], " in message
    assert not workdir.exists()
    message = refusal(*first[:3], "--config", "configs/firewatch.py", "--gen_ab", files["unet"])
    assert "expected generator.variant resnet9_same, got unet128 or unet256" in message
    assert "no such file" in refusal(*first[:3], "--config", "nothing.py", *first[5:], "x")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"gen_ba": "unet"}, "expected generator.variant 'resnet3' as in {gen_ab}, got 'unet256'"),
        ({"gen_ba": "wide"}, "expected generator.width 2 as in {gen_ab}, got 4"),
        ({"gen_ba": "grey"}, "expected data.channels_b 3 as in {gen_ab}, got 1"),
        ({"gen_ab": "grey", "disc_a": "disc_a"}, "expected data.channels_a 1 as in {grey}, got 3"),
        (
            {"disc_a": "disc_a", "disc_b": "pixel"},
            "expected discriminator.variant 'patch' as in {disc_a}, got 'pixel'",
        ),
        ({"gen_ab": "channels"}, "expected at most 64 channels, got 65; set data.channels_a"),
        (
            {"gen_ab": "foreign"},
            "expected a generator of the PyTorch original, PyTorch-GAN, DGAI, CycleGAN-Keras or "
            "the Paddle tutorial, got the tensors 0.weight [3, 3, 3, 3], 0.bias [3]",
        ),
        ({"gen_ab": "disc_a"}, "got a PatchGAN discriminator of the PyTorch original"),
        ({"gen_ab": "shallow"}, "expected a U-Net of 7 (unet128) or 8 (unet256) levels, got 5"),
        ({"disc_b": "gen_ab"}, "got a ResNet generator of the PyTorch original"),
        ({"disc_b": "unet"}, "got a U-Net generator of the PyTorch original"),
    ],
    ids=str,
)
def test_files_that_do_not_fit_each_other(tmp_path, files, choice, expected):
    """The difference is named with both files, before anything is written."""
    paths = {name: files[file] for name, file in ({"gen_ab": "gen_ab"} | choice).items()}
    flags = [word for name, path in paths.items() for word in (f"--{name}", path)]
    message = refusal("import", "--workdir", tmp_path / "run", *flags)
    assert expected.format(**files) in message
    assert not (tmp_path / "run").exists()


def test_a_missing_tensor(tmp_path):
    """A tensor that is missing and one that is unexpected are named."""
    config = changed("generator", {"variant": "resnet3"})
    state = network("generator", config).state_dict()
    state["model.27.weight"] = state.pop("model.11.conv_block.5.weight")
    torch.save(state, tmp_path / "x.pth")
    message = refusal("import", "--workdir", tmp_path / "run", "--gen_ab", tmp_path / "x.pth")
    assert message.endswith(
        "x.pth: does not fit the network; missing: model.11.conv_block.5.weight; "
        "unexpected: model.27.weight"
    )


def test_a_generator_and_a_discriminator_alone(tmp_path, capsys):
    """The configuration is detected, and the other networks are initialised from the seed."""
    config = changed("generator", {"blocks": 1, "norm": "batch"})
    config.discriminator.variant = "pixel"
    gen_ab, disc_a = network("generator", config), network("discriminator", config)
    workdir, paths = tmp_path / "run", (tmp_path / "g.pth", tmp_path / "d.pth")
    flags = ["--gen_ab", str(save(paths[0], gen_ab)), "--disc_a", str(save(paths[1], disc_a))]
    main(["import", "--workdir", str(workdir), *flags])
    output = capsys.readouterr()
    assert output.out.startswith(
        f"gen_ab: {paths[0]}\ngen_ba: initialised from seed 0\n"
        f"disc_a: {paths[1]}\ndisc_b: initialised from seed 0\n"
    )
    assert f"--workdir {workdir} --config.data.channels_a=2" in output.out
    assert "--config.generator.blocks=1 --config.generator.norm=batch" in output.out
    assert "warning: batch norms use the statistics of each batch" in output.err
    (own,) = (line for line in output.out.splitlines() if "own images" in line)
    start = "configs/folder.py --workdir NEW --config.data.dir=IMAGES --config.init_from="
    assert start + str(workdir) in own
    assert "--config.generator.norm=batch" in own
    stored = config_lib.read_json(workdir / "config.json")
    config.loss.identity = 0.0
    assert stored.to_dict() == config.to_dict()
    _, params = Checkpoints(workdir, read_only=True).restore_params()
    assert_same(params["gen_ab"], to_flax(gen_ab.state_dict()))
    assert_same(params["disc_a"], to_flax(disc_a.state_dict()))
    quick = {"xla_backend_optimization_level": 1}
    fresh = jax.jit(lambda: build_state(stored, (32, 32)).params, compiler_options=quick)()
    for name in ("gen_ba", "disc_b"):
        jax.tree.map(np.testing.assert_array_equal, params[name], fresh[name])


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> tuple[Path, dict[str, torch.nn.Module]]:
    """Return a work directory of `tests/tiny.py` with imported networks, and those networks."""
    folder = tmp_path_factory.mktemp("imported")
    config = tiny.get_config()
    networks, flags = {}, []
    for seed, name in enumerate(FILES):
        kind = "generator" if name.startswith("gen") else "discriminator"
        networks[name] = network(kind, config, seed)
        flags += [f"--{name}", str(save(folder / f"{name}.pth", networks[name]))]
    main(["import", "--workdir", str(folder / "run"), "--config", "tests/tiny.py", *flags])
    return folder / "run", networks


def exported(workdir: Path, output: Path, *flags: str) -> dict[str, torch.nn.Module]:
    """Export four files and load them into networks of the original, by our names."""
    main(["export", "--workdir", str(workdir), "--output", str(output), *flags])
    config, networks = tiny.get_config(), {}
    for name, letters in FILES.items():
        networks[name] = network("generator" if "gen" in name else "discriminator", config, 9)
        networks[name].load_state_dict(
            torch.load(output / f"latest_net_{letters}.pth", weights_only=True), strict=True
        )
    return networks


def test_training_resumes_from_imported_networks(tmp_path, imported):
    """Training starts from imported networks; exports of both checkpoints equal their states."""
    workdir, originals = imported
    config = tiny.get_config()
    config.num_steps = 2
    state = train(config, workdir)
    assert int(state.step) == 2
    for name, theirs in exported(workdir, tmp_path / "first", "--checkpoint", "0").items():
        assert_same(to_flax(theirs.state_dict()), to_flax(originals[name].state_dict()))
    for name, theirs in exported(workdir, tmp_path / "last").items():
        assert_same(
            to_flax(theirs.state_dict()), jax.tree.map(np.asarray, dict(state.params[name]))
        )
        moved = jax.tree.map(
            lambda x, y: np.abs(x - y).max(),
            to_flax(theirs.state_dict()),
            to_flax(originals[name].state_dict()),
        )
        # Adam's first steps have the size of the learning rate.
        assert 1e-5 < max(jax.tree.leaves(moved)) < 1e-2
    command = ("export", "--workdir", workdir, "--output", tmp_path / "last")
    assert "latest_net_G_A.pth: exists already" in refusal(*command)
    command = ("export", "--workdir", workdir, "--output", tmp_path / "new", "--checkpoint")
    assert "no checkpoint of step 1; expected one of 0, 2" in refusal(*command, 1)
    assert not (tmp_path / "new").exists()


def test_folders_that_are_in_use(tmp_path, imported):
    """Nothing is overwritten, and only runs are exported."""
    path = tmp_path / "file"
    path.write_text("precious")
    message = refusal("import", "--workdir", tmp_path, "--gen_ab", path)
    assert "expected a new or empty folder" in message
    assert "expected a new or empty folder" in refusal(
        "import", "--workdir", imported[0], "--gen_ab", path
    )
    assert "Not a directory" in refusal("import", "--workdir", path, "--gen_ab", path)
    assert "got no checkpoints" in refusal("export", "--workdir", tmp_path, "--output", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert "config.json: cannot be read as a configuration" in refusal(
        "export", "--workdir", tmp_path, "--output", tmp_path
    )
    command = ("export", "--workdir", imported[0], "--output", path)
    assert f"--output {path}: cannot be written: [Errno 17] File exists" in refusal(*command)
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("generator__variant", "resnet9_same", "resnet3, resnet6, "),
        ("generator__norm", "instance_affine", "'instance', 'batch' or 'none'"),
        ("discriminator__variant", "patch_reflect", "patch or pixel"),
        ("discriminator__norm", "instance_affine", "'instance', 'batch' or 'none'"),
        ("discriminator__sigmoid", True, "False"),
        ("discriminator__scales", 2, "1"),
    ],
)
def test_networks_that_the_original_lacks(field, value, expected):
    """The field is named with the values that the original has."""
    config = get_config()
    exporting(config_lib.flatten(config))
    name = field.replace("__", ".")
    message = (
        rf"config\.{name}: expected {expected}.*, as the PyTorch original.* has, got {value!r}"
    )
    with pytest.raises(UserError, match=message):
        exporting(config_lib.flatten(change(config, **{field: value})))


def test_command_line(tmp_path):
    """A mistake gives one line on standard error and exit code 1."""
    command = [sys.executable, "-m", "cyclegan_jax.torch_weights", "import"]
    result = subprocess.run(
        [*command, "--workdir", str(tmp_path / "run"), "--gen_ab", str(tmp_path / "x.pth")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert (
        result.stderr == f"error: {tmp_path / 'x.pth'}: cannot be read: No such file or directory\n"
    )
    assert "required: --gen_ab" in refusal("import", "--workdir", tmp_path)
    assert "invalid choice: 'imprt'" in refusal("imprt")
