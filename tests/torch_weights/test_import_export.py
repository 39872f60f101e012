"""The original's networks into work directories and out again, and files that do not fit."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import torch_networks  # noqa: E402
from configs import default  # noqa: E402
from cyclegan_jax import config as config_lib  # noqa: E402
from cyclegan_jax.checkpoint import Checkpoints  # noqa: E402
from cyclegan_jax.build import build_state  # noqa: E402
from cyclegan_jax.torch_weights.program import check_supported, main  # noqa: E402
from cyclegan_jax.training import train  # noqa: E402
from cyclegan_jax.utils.errors import UserError  # noqa: E402
from tests import tiny  # noqa: E402
from tests.parity import change  # noqa: E402
from tests.torch_weights.originals import assert_same, changed, network, save  # noqa: E402
from tests.torch_params import to_flax  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
# The original's D_A judges images of B.
FILES = {"gen_ab": "G_A", "gen_ba": "G_B", "disc_a": "D_B", "disc_b": "D_A"}


def refusal(*arguments: Any) -> str:
    """The one line with which the command line is refused."""
    with pytest.raises(UserError) as caught:
        main([str(argument) for argument in arguments])
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """Four files of narrow networks with 3 channels, and of others that do not go with them."""
    config = changed("generator", {"variant": "resnet3"})
    config.data.channels_a = 3
    made = {
        "gen_ab": network("generator", config),
        "gen_ba": network("generator", config, seed=1),
        "disc_a": network("discriminator", config, seed=2),
        "disc_b": network("discriminator", config, seed=3),
        "unet": torch_networks.UNetGenerator(3, 3, 2, depth=8),
        "wide": torch_networks.ResNetGenerator(3, 3, 4, 3),
        "grey": torch_networks.ResNetGenerator(1, 3, 2, 3),
        "pixel": torch_networks.PixelDiscriminator(3, 2),
        "shallow": torch_networks.UNetGenerator(3, 3, 2, depth=5),
        "foreign": torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3)),
    }
    return {name: save(tmp_path / f"{name}.pth", net) for name, net in made.items()}


def test_files_that_do_not_fit_a_configuration(tmp_path, files):
    """Tensors that are missing, too many and of another shape are named, and nothing is left."""
    workdir = tmp_path / "run"
    first = ("import", "--workdir", workdir, "--config", "configs/horse2zebra.py", "--gen_ab")
    message = refusal(*first, files["unet"])
    assert str(files["unet"]) in message
    assert "missing: model.1.weight, model.1.bias, model.4.weight" in message
    assert "and 38 more; not expected: model.model.0.weight, " in message
    message = refusal(*first, files["gen_ab"])
    assert "missing: model.13.conv_block.1.weight" in message
    assert "of another shape: model.1.weight [2, 3, 7, 7] for [64, 3, 7, 7], " in message
    assert not workdir.exists()
    message = refusal(*first[:3], "--config", "configs/firewatch.py", "--gen_ab", files["unet"])
    assert "config.generator.variant is 'resnet9_same'; the PyTorch original has resnet3" in message
    assert "no such file" in refusal(*first[:3], "--config", "nothing.py", *first[5:], "x")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"gen_ba": "unet"}, "generator.variant is 'unet256', but 'resnet3' in "),
        ({"gen_ba": "wide"}, "generator.width is 4, but 2 in "),
        ({"gen_ba": "grey"}, "data.channels_b is 1, but 3 in "),
        ({"gen_ab": "grey", "disc_a": "disc_a"}, "data.channels_a is 3, but 1 in "),
        ({"disc_a": "disc_a", "disc_b": "pixel"}, "discriminator.variant is 'pixel', but 'patch'"),
        ({"gen_ab": "foreign"}, "not a ResNet or U-Net of the original: 0.weight [3, 3, 3, 3]"),
        ({"gen_ab": "disc_a"}, "not a ResNet or U-Net of the original: model.0.weight [2, 3, 4"),
        ({"gen_ab": "shallow"}, "a U-Net of 5 levels; 7 (unet128) or 8 (unet256)"),
        ({"disc_b": "gen_ab"}, "not a patch or pixel discriminator of the original"),
        ({"disc_b": "unet"}, "not a patch or pixel discriminator of the original"),
    ],
    ids=str,
)
def test_files_that_do_not_go_together(tmp_path, files, given, expected):
    """What differs is named, with both files, before anything is made."""
    paths = {name: files[file] for name, file in ({"gen_ab": "gen_ab"} | given).items()}
    flags = [word for name, path in paths.items() for word in (f"--{name}", path)]
    message = refusal("import", "--workdir", tmp_path / "run", *flags)
    assert expected in message
    assert not (tmp_path / "run").exists()


def test_a_tensor_left_out(tmp_path):
    """A file that lacks one tensor, and has one more, is told so by name."""
    config = changed("generator", {"variant": "resnet3"})
    state = network("generator", config).state_dict()
    state["model.27.weight"] = state.pop("model.11.conv_block.5.weight")
    torch.save(state, tmp_path / "x.pth")
    message = refusal("import", "--workdir", tmp_path / "run", "--gen_ab", tmp_path / "x.pth")
    assert message.endswith(
        "x.pth: does not fit; missing: model.11.conv_block.5.weight; not expected: model.27.weight"
    )


def test_a_generator_and_a_discriminator_alone(tmp_path, capsys):
    """The configuration follows from the files; what is not given starts from the seed."""
    config = changed("generator", {"blocks": 1, "norm": "batch"})
    config.discriminator.variant = "pixel"
    gen_ab, disc_a = network("generator", config), network("discriminator", config)
    workdir, paths = tmp_path / "run", (tmp_path / "g.pth", tmp_path / "d.pth")
    flags = ["--gen_ab", str(save(paths[0], gen_ab)), "--disc_a", str(save(paths[1], disc_a))]
    main(["import", "--workdir", str(workdir), *flags])
    said = capsys.readouterr()
    assert said.out.startswith(
        f"gen_ab: from {paths[0]}\ngen_ba: fresh, from seed 0\n"
        f"disc_a: from {paths[1]}\ndisc_b: fresh, from seed 0\n"
    )
    assert f"--workdir {workdir} --config.data.channels_a=2" in said.out
    assert "--config.generator.blocks=1 --config.generator.norm=batch" in said.out
    assert "warning: batch norms use the statistics of each batch" in said.err
    found = config_lib.read_json(workdir / "config.json")
    config.loss.identity = 0.0
    assert found.to_dict() == config.to_dict()
    _, params = Checkpoints(workdir, read_only=True).restore_params(found)
    assert_same(params["gen_ab"], to_flax(gen_ab.state_dict()))
    assert_same(params["disc_a"], to_flax(disc_a.state_dict()))
    quick = {"xla_backend_optimization_level": 1}
    fresh = jax.jit(lambda: build_state(found, (32, 32)).params, compiler_options=quick)()
    for name in ("gen_ba", "disc_b"):
        jax.tree.map(np.testing.assert_array_equal, params[name], fresh[name])


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> tuple[Path, dict[str, torch.nn.Module]]:
    """A work directory of `tests/tiny.py` with four networks of PyTorch's in it, and those."""
    folder = tmp_path_factory.mktemp("imported")
    config = tiny.get_config()
    given, flags = {}, []
    for seed, name in enumerate(FILES):
        kind = "generator" if name.startswith("gen") else "discriminator"
        given[name] = network(kind, config, seed)
        flags += [f"--{name}", str(save(folder / f"{name}.pth", given[name]))]
    main(["import", "--workdir", str(folder / "run"), "--config", "tests/tiny.py", *flags])
    return folder / "run", given


def exported(workdir: Path, output: Path, *flags: str) -> dict[str, torch.nn.Module]:
    """The four files as networks of the original's, by our names."""
    main(["export", "--workdir", str(workdir), "--output", str(output), *flags])
    config, networks = tiny.get_config(), {}
    for name, letters in FILES.items():
        networks[name] = network("generator" if "gen" in name else "discriminator", config, 9)
        networks[name].load_state_dict(
            torch.load(output / f"latest_net_{letters}.pth", weights_only=True), strict=True
        )
    return networks


def test_training_goes_on_and_comes_back(tmp_path, imported):
    """Two updates from imported networks; both checkpoints exported give what they hold."""
    workdir, given = imported
    config = tiny.get_config()
    config.num_steps = 2
    state = train(config, workdir)
    assert int(state.step) == 2
    for name, theirs in exported(workdir, tmp_path / "first", "--checkpoint", "0").items():
        assert_same(to_flax(theirs.state_dict()), to_flax(given[name].state_dict()))
    for name, theirs in exported(workdir, tmp_path / "last").items():
        assert_same(
            to_flax(theirs.state_dict()), jax.tree.map(np.asarray, dict(state.params[name]))
        )
        moved = jax.tree.map(
            lambda x, y: np.abs(x - y).max(),
            to_flax(theirs.state_dict()),
            to_flax(given[name].state_dict()),
        )
        # Adam's first steps are of the size of the learning rate.
        assert 1e-5 < max(jax.tree.leaves(moved)) < 1e-2
    command = ("export", "--workdir", workdir, "--output", tmp_path / "last")
    assert "latest_net_G_A.pth: there already" in refusal(*command)
    command = ("export", "--workdir", workdir, "--output", tmp_path / "new", "--checkpoint")
    assert "no checkpoint of step 1; there are 0, 2" in refusal(*command, 1)
    assert not (tmp_path / "new").exists()


def test_folders_in_the_way(tmp_path, imported):
    """Nothing is overwritten; what is no run is not exported."""
    path = tmp_path / "file"
    path.write_text("precious")
    message = refusal("import", "--workdir", tmp_path, "--gen_ab", path)
    assert "not empty" in message
    assert "not empty" in refusal("import", "--workdir", imported[0], "--gen_ab", path)
    assert "Not a directory" in refusal("import", "--workdir", path, "--gen_ab", path)
    assert "no checkpoints" in refusal("export", "--workdir", tmp_path, "--output", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert "config.json: not a readable configuration" in refusal(
        "export", "--workdir", tmp_path, "--output", tmp_path
    )
    command = ("export", "--workdir", imported[0], "--output", path)
    assert f"--output {path}: cannot be written: [Errno 17] File exists" in refusal(*command)
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("generator__variant", "resnet9_same"),
        ("generator__norm", "instance_affine"),
        ("discriminator__variant", "patch_reflect"),
        ("discriminator__norm", "instance_affine"),
        ("discriminator__sigmoid", True),
        ("discriminator__scales", 2),
    ],
)
def test_networks_that_the_original_has_not(field, value):
    """The field is named with what the original has."""
    config = default.get_config()
    check_supported(config)
    name = field.replace("__", ".")
    with pytest.raises(UserError, match=f"config.{name} is {value!r}; the PyTorch original has"):
        check_supported(change(config, **{field: value}))


def test_command_line(tmp_path):
    """A mistake is one line on standard error and an exit code other than 0."""
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
