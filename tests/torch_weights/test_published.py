"""Weights of other published programs are recognised, imported, and exported where they can be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
h5py = pytest.importorskip("h5py")

from benchmarks import torch_networks  # noqa: E402
from cyclegan_jax import config as config_lib  # noqa: E402
from cyclegan_jax.build import build_networks  # noqa: E402
from cyclegan_jax.torch_weights.files import read_tensors  # noqa: E402
from cyclegan_jax.torch_weights.formats import (  # noqa: E402
    FORMATS,
    exporting,
    find_format,
    trainable,
)
from cyclegan_jax.torch_weights.program import main  # noqa: E402
from cyclegan_jax.torch_weights.systems import keras, pytorch_gan  # noqa: E402
from cyclegan_jax.utils import image_io  # noqa: E402
from cyclegan_jax.utils.errors import UserError  # noqa: E402
from tests import torch_recipes  # noqa: E402
from tests.parity import image_batch, to_torch  # noqa: E402
from tests.torch_params import to_flax  # noqa: E402
from tests.torch_weights import published  # noqa: E402
from tests.torch_weights.originals import assert_same, save  # noqa: E402
from tests.torch_weights.published import (  # noqa: E402
    narrow,
    paddle_state,
    random_network,
    recipe_network,
    write_keras,
    write_paddle,
)
from tests.torch_weights.torch_files import DATA  # noqa: E402

AFFINE = {"generator__norm": keras.NORM, "discriminator__norm": keras.NORM}
FIREWATCH = AFFINE | {"discriminator__sigmoid": True, "discriminator__layers": 4}
COMPACT = {"generator__norm": "instance_affine", "discriminator__norm": "instance_affine"}
GAN_G, GAN_D = "a generator of PyTorch-GAN", "a discriminator of PyTorch-GAN"
DGAI_G, DGAI_D = "a generator of DGAI", "a discriminator of DGAI"
KERAS_G, KERAS_D = "a generator of CycleGAN-Keras", "a discriminator of CycleGAN-Keras"
PADDLE_G, PADDLE_D = "a generator of the Paddle tutorial", "a discriminator of the Paddle tutorial"

# PyTorch modules: (format, kind, changed fields, the published module, size of images).
MODULES: dict[str, tuple[str, str, dict[str, Any], Callable[[], Any], int]] = {
    "PyTorch-GAN, generator": (
        GAN_G,
        "generator",
        {"generator__variant": "resnet9_resize", "generator__blocks": 2},
        lambda: published.pytorch_gan_generator(2, 2),
        24,
    ),
    "PyTorch-GAN, nine blocks": (
        GAN_G,
        "generator",
        {"generator__variant": "resnet9_resize", "generator__width": 1},
        lambda: published.pytorch_gan_generator(1, 9),
        24,
    ),
    "PyTorch-GAN, discriminator": (
        GAN_D,
        "discriminator",
        {"discriminator__variant": "patch_strided", "discriminator__layers": 4},
        lambda: published.pytorch_gan_discriminator(2, 4),
        64,
    ),
    "DGAI, generator": (
        DGAI_G,
        "generator",
        {"generator__variant": "resnet9_reflect", "generator__blocks": 2},
        lambda: published.DGAIGenerator(2, 2),
        24,
    ),
    "DGAI, discriminator": (
        DGAI_D,
        "discriminator",
        {"discriminator__variant": "patch_reflect", "discriminator__sigmoid": True},
        lambda: published.DGAIDiscriminator(2, 3),
        48,
    ),
    "DGAI, two layers": (
        DGAI_D,
        "discriminator",
        {
            "discriminator__variant": "patch_reflect",
            "discriminator__layers": 2,
            "discriminator__sigmoid": True,
        },
        lambda: published.DGAIDiscriminator(2, 2),
        48,
    ),
}

# Networks of `torch_recipes`, of which Keras and Paddle files are written: (format, kind, fields).
RECIPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Keras, generator": (
        KERAS_G,
        "generator",
        FIREWATCH | {"generator__variant": "resnet9_same", "generator__blocks": 2},
    ),
    "Keras, resize": (
        f"{KERAS_G} with resize convolutions",
        "generator",
        FIREWATCH | {"generator__variant": "resnet9_same_resize", "generator__blocks": 2},
    ),
    "Keras, deep": (
        f"{KERAS_G} with three levels",
        "generator",
        FIREWATCH | {"generator__variant": "resnet9_same_deep", "generator__width": 3},
    ),
    "Keras, discriminator": (
        KERAS_D,
        "discriminator",
        FIREWATCH | {"discriminator__variant": "patch_same"},
    ),
    "Keras, two scales": (
        KERAS_D,
        "discriminator",
        FIREWATCH | {"discriminator__variant": "patch_same", "discriminator__scales": 2},
    ),
    "Keras, dense": (
        f"{KERAS_D} with a dense unit",
        "discriminator",
        FIREWATCH
        | {"discriminator__variant": "dense", "data__crop_size": 64, "data__load_size": 64},
    ),
    "Paddle, generator": (
        PADDLE_G,
        "generator",
        COMPACT | {"generator__variant": "resnet7_single", "generator__blocks": 2},
    ),
    "Paddle, seven blocks": (
        PADDLE_G,
        "generator",
        COMPACT | {"generator__variant": "resnet7_single", "generator__width": 1},
    ),
    "Paddle, discriminator": (
        PADDLE_D,
        "discriminator",
        COMPACT | {"discriminator__variant": "patch_normed"},
    ),
}


def shapes(kind: str, config: Any, size: int = 64) -> Any:
    """Return the shapes of the parameters of our gen_ab or disc_a."""
    ours = build_networks(config)
    module = ours.gen_ab if kind == "generator" else ours.disc_a
    return jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))["params"]


def detect(name: str, kind: str, config: Any, tensors: Any) -> Any:
    """Return the format of tensors, after a check of its name and of what it detects."""
    entry = find_format(kind, tensors)
    assert entry is FORMATS[name]
    detected = entry.detect(tensors)
    assert detected.pop("channels_in") == 3
    assert detected.pop("channels_out", 3) == 3
    flat = config_lib.flatten(config)
    assert detected == {field: flat[field] for field in detected}
    assert {f"{kind}.variant", f"{kind}.width", f"{kind}.norm"} <= set(detected)
    return entry


@pytest.mark.parametrize("case", MODULES)
def test_pytorch_modules(tmp_path, case):
    """Files of published modules give their outputs to 1e-5, and exports load there strictly."""
    name, kind, fields, build, size = MODULES[case]
    config, theirs = narrow(**fields), random_network(build())
    tensors = trainable(read_tensors(save(tmp_path / "x.pth", theirs)))
    entry = detect(name, kind, config, tensors)
    params = entry.to_params(tensors, shapes(kind, config))

    images = image_batch(np.random.default_rng(0), size)
    with torch.no_grad():
        expected = theirs(to_torch(images, torch.float32)).permute(0, 2, 3, 1).numpy()
    assert expected.std() > 0.05
    networks = build_networks(config)
    module = networks.gen_ab if kind == "generator" else networks.disc_a
    apply = jax.jit(module.apply, compiler_options={"xla_backend_optimization_level": 0})
    ours = apply({"params": params}, image_io.to_float(images))
    np.testing.assert_allclose(ours, expected, atol=1e-5)

    exported = entry.from_params(params)
    assert list(exported) == list(theirs.state_dict())
    loaded = random_network(build(), seed=1)
    loaded.load_state_dict({n: torch.from_numpy(x) for n, x in exported.items()}, strict=True)
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[key], tensor, err_msg=key)


def recipe_file(case: str, path: Path, **options: Any) -> Any:
    """Write the file of one of `RECIPES`; return its network."""
    _, kind, fields = RECIPES[case]
    theirs = recipe_network(kind, narrow(**fields), size=64)
    if case.startswith("Keras"):
        write_keras(path, theirs, **options)
    else:
        write_paddle(path, paddle_state(theirs), **options)
    return theirs


@pytest.mark.parametrize("case", RECIPES)
def test_keras_and_paddle_files(tmp_path, case):
    """Files give the parameters of the network that they were written from."""
    name, kind, fields = RECIPES[case]
    config, path = narrow(**fields), tmp_path / "x"
    theirs = recipe_file(case, path)
    tensors = trainable(read_tensors(path))
    entry = detect(name, kind, config, tensors)
    assert_same(entry.to_params(tensors, shapes(kind, config)), to_flax(theirs.state_dict()))
    # Other numbers of layers, and the other protocol.
    options = {"first": 9} if case.startswith("Keras") else {"protocol": 2}
    recipe_file(case, path, **options)
    again = trainable(read_tensors(path))
    assert_same(entry.to_params(again, shapes(kind, config)), to_flax(theirs.state_dict()))


def test_stored_files():
    """Files by Keras 2.2.4 and Paddle 3.3.1 give their tensors, which count up, in order.

    `data/keras_*.hdf5` are models with Keras's own layers, `data/paddle_*.pdparams` a generator of
    width 1; the numbers of the i-th tensor are i, i + 1 / n, ..., i + (n - 1) / n.
    """
    for name, kind in (
        ("keras_generator.hdf5", "generator"),
        ("keras_discriminator.hdf5", "discriminator"),
        ("paddle_generator.pdparams", "generator"),
        ("paddle_generator_protocol2.pdparams", "generator"),
    ):
        tensors = read_tensors(DATA / name)
        for i, array in enumerate(tensors.values()):
            count = np.arange(array.size, dtype=np.float64) / array.size + i
            np.testing.assert_allclose(array.ravel(), count, rtol=1e-6)
        entry = find_format(kind, tensors)
        fields = entry.detect(tensors)
        config = narrow()
        config.update_from_flattened_dict({k: v for k, v in fields.items() if "channels" not in k})
        entry.to_params(tensors, shapes(kind, config))


def samples(tmp_path: Path) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Return the tensors of networks in every format, by the name of the format."""
    o = "of the PyTorch original"
    modules: list[tuple[str, Any]] = [(name, build()) for name, _, _, build, _ in MODULES.values()]
    for norm in ("instance", "batch", "none"):
        modules += [
            (
                f"a ResNet generator {o}",
                torch_networks.ResNetGenerator(3, 3, 2, 3, norm=norm),
            ),
            (f"a U-Net generator {o}", torch_networks.UNetGenerator(3, 3, 2, 7, norm=norm)),
            (
                f"a pixel discriminator {o}",
                torch_networks.PixelDiscriminator(3, 2, norm=norm),
            ),
        ]
        for layers in (1, 2, 3, 4, 5):
            patch = torch_networks.PatchDiscriminator(3, 2, layers, norm=norm)
            modules.append((f"a PatchGAN discriminator {o}", patch))
    modules += [(GAN_D, published.pytorch_gan_discriminator(2, layers)) for layers in (2, 3, 5)]
    modules += [(GAN_G, published.pytorch_gan_generator(2, blocks)) for blocks in (1, 6)]
    modules += [(DGAI_D, published.DGAIDiscriminator(2, 1))]
    result = []
    for name, module in modules:
        state = {key: tensor.numpy() for key, tensor in module.state_dict().items()}
        result += [(name, state), (name, {f"module.{key}": x for key, x in state.items()})]
    for case, (name, _, _) in RECIPES.items():
        recipe_file(case, tmp_path / "x")
        result.append((name, read_tensors(tmp_path / "x")))
    return result


def test_every_file_has_one_format(tmp_path):
    """Each network is recognised as that of its program, and by no other recogniser."""
    found = set()
    for name, tensors in samples(tmp_path):
        matching = [n for n, entry in FORMATS.items() if entry.matches(trainable(tensors))]
        assert matching == [name]
        found.add(name)
    assert found == set(FORMATS)


def refusal(*arguments: Any) -> str:
    """Return the one line with which the command line is refused."""
    with pytest.raises(UserError) as caught:
        main([str(argument) for argument in arguments])
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_published_generator_alone(tmp_path, capsys, monkeypatch):
    """The discriminators are those of the generator's program, and other widths not exported."""
    monkeypatch.setitem(pytorch_gan.SYSTEM.discriminators, "discriminator.width", 2)  # for speed
    path = save(tmp_path / "G_AB_7.pth", random_network(published.pytorch_gan_generator(2, 2)))
    workdir = tmp_path / "run"
    main(["import", "--workdir", str(workdir), "--gen_ab", str(path)])
    stored = json.loads((workdir / "config.json").read_text())
    assert stored["generator"]["variant"] == "resnet9_resize"
    assert stored["discriminator"]["variant"] == "patch_strided"
    assert stored["discriminator"]["layers"] == 4
    assert "--config.discriminator.variant=patch_strided" in capsys.readouterr().out
    message = refusal("export", "--workdir", workdir, "--output", tmp_path / "out")
    assert message == "config.generator.width: expected 64, as PyTorch-GAN has, got 2"
    assert not (tmp_path / "out").exists()


def test_dgai_there_and_back(tmp_path):
    """Four files are imported and exported under the program's names, and load strictly."""
    networks, flags = {}, []
    for seed, (name, file) in enumerate(
        {
            "gen_ab": "gen_blond",
            "gen_ba": "gen_black",
            "disc_a": "disc_A",
            "disc_b": "disc_B",
        }.items()
    ):
        generator = name.startswith("gen")
        module = published.DGAIGenerator(2, 1) if generator else published.DGAIDiscriminator(2, 2)
        networks[file] = random_network(module, seed)
        flags += [f"--{name}", str(save(tmp_path / f"{file}.pth", module))]
    main(["import", "--workdir", str(tmp_path / "run"), *flags])
    main(["export", "--workdir", str(tmp_path / "run"), "--output", str(tmp_path / "out")])
    assert len(list((tmp_path / "out").iterdir())) == 4
    for file, module in networks.items():
        state = torch.load(tmp_path / "out" / f"{file}.pth", weights_only=True)
        expected = {key: tensor.clone() for key, tensor in module.state_dict().items()}
        module.load_state_dict(state, strict=True)
        assert all(torch.equal(module.state_dict()[key], x) for key, x in expected.items())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"generator__variant": "resnet9_resize", "discriminator__variant": "patch"},
            "config.discriminator.variant: expected patch_strided, as PyTorch-GAN has, got 'patch'",
        ),
        (
            {
                "generator__variant": "resnet9_resize",
                "discriminator__variant": "patch_strided",
                "discriminator__layers": 3,
                "generator__width": 64,
                "discriminator__width": 64,
            },
            "config.discriminator.layers: expected 4, as PyTorch-GAN has, got 3",
        ),
        (
            {
                "generator__variant": "resnet9_reflect",
                "discriminator__variant": "patch_reflect",
            },
            "config.discriminator.sigmoid: expected True, as DGAI has, got False",
        ),
        (
            {
                "generator__variant": "resnet9_reflect",
                "discriminator__variant": "patch_reflect",
                "discriminator__sigmoid": True,
                "data__channels_b": 1,
            },
            "config.data.channels_b: expected 3, as DGAI has, got 1",
        ),
        (
            {"generator__variant": "resnet7_single"},
            "config.generator.variant: expected resnet3, resnet6, resnet9, unet128, unet256, "
            "resnet9_resize or resnet9_reflect, as the PyTorch original, PyTorch-GAN or DGAI has, "
            "got 'resnet7_single'",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:60],
)
def test_networks_that_no_program_has(fields, expected):
    """The field is named with the program and its values."""
    with pytest.raises(UserError) as caught:
        exporting(config_lib.flatten(narrow(**fields)))
    assert str(caught.value) == expected


def test_files_that_programs_could_not_have_written(tmp_path):
    """Channels, layers and sizes that give another network than ours are refused."""
    workdir = tmp_path / "run"

    def message(module: Any) -> str:
        return refusal("import", "--workdir", workdir, "--gen_ab", save(tmp_path / "x.pth", module))

    assert "expected 3 channels in and out, for which PyTorch-GAN keeps the size" in message(
        published.pytorch_gan_generator(2, 1, channels=1)
    )
    good = save(tmp_path / "g.pth", random_network(published.DGAIGenerator(2, 1)))
    deep = save(tmp_path / "d.pth", published.DGAIDiscriminator(2, 4))
    assert "discriminator.layers: expected 1, 2 or 3, as DGAI has, got 4" in refusal(
        "import", "--workdir", workdir, "--gen_ab", good, "--disc_a", deep
    )
    disc = save(tmp_path / "d.pth", published.DGAIDiscriminator(64, 3))
    config = "configs/celeba_hair.py"
    first = ("import", "--workdir", workdir, "--config", config, "--gen_ab", good)
    assert "does not fit the network" in refusal(*first)
    config = tmp_path / "config.py"
    config.write_text(
        "from configs import celeba_hair\n"
        "def get_config():\n"
        "    config = celeba_hair.get_config()\n"
        "    config.discriminator.sigmoid = False\n"
        "    return config\n"
    )
    wide = save(tmp_path / "w.pth", published.DGAIGenerator(64, 1))
    first = ("import", "--workdir", workdir, "--config", config, "--gen_ab", wide)
    assert "discriminator.sigmoid: expected True, as DGAI has, got False" in refusal(
        *first, "--disc_a", disc
    )
    assert not workdir.exists()


def test_missing_and_unexpected_tensors(tmp_path):
    """Tensors that are missing, unexpected, or of another shape or type are named."""
    config = narrow(**RECIPES["Paddle, generator"][2])
    state = paddle_state(recipe_network("generator", config))
    state["model.5.model.3.weight"] = state.pop("model.5.model.0.weight")
    state["model.6.model.1.scale"] = np.ones(5, np.float32)
    state["model.6.model.1.bias"] = np.ones(8, np.int32)
    path = write_paddle(tmp_path / "x.pdparams", state)
    message = refusal("import", "--workdir", tmp_path / "run", "--gen_ab", path)
    assert "missing: model.5.model.0.weight; unexpected: model.5.model.3.weight; " in message
    assert "of another shape: model.6.model.1.scale [5] for [8]" in message
    assert "not of floating-point numbers: model.6.model.1.bias (int32)" in message

    def changed(group: Any) -> None:
        names = [name for name in group.attrs["weight_names"] if b"beta" not in name]
        group.attrs["weight_names"] = np.array(names)

    path = tmp_path / "x.hdf5"
    recipe_file("Keras, generator", path)
    with h5py.File(path, "a") as file:
        changed(file["instance_normalization_4"])
    message = refusal("import", "--workdir", tmp_path / "run", "--gen_ab", path)
    assert "missing: head/bias" in message
    assert "of another shape: " in message


def test_empty_tensors(tmp_path):
    """A network without channels is refused."""
    state = published.pytorch_gan_generator(2, 1).state_dict()
    state = {key: tensor[:0] for key, tensor in state.items()}
    torch.save(state, tmp_path / "x.pth")
    message = refusal("import", "--workdir", tmp_path / "run", "--gen_ab", tmp_path / "x.pth")
    assert "expected tensors with numbers, got model.1.weight [0, 3, 7, 7], " in message


def test_dense_units(tmp_path):
    """The size of images follows from a dense unit, unless it is not square or too large."""
    config = narrow(**RECIPES["Keras, dense"][2])
    for pixels, expected in ((15, "got 240 weights for 16 channels"), (33**2, "got 17424 weights")):
        module = torch_recipes.build_discriminator(config, 3, 64)
        module.dense = torch.nn.Conv2d(16, 1, (1, pixels))
        write_keras(tmp_path / "x.hdf5", module)
        tensors = read_tensors(tmp_path / "x.hdf5")
        with pytest.raises(UserError, match=expected):
            find_format("discriminator", tensors).detect(tensors)


def test_configurations_of_the_recipes(tmp_path):
    """A file fits the recipe's configuration, and not that of another variant."""
    config = narrow(**RECIPES["Keras, generator"][2])
    path = write_keras(tmp_path / "x.hdf5", recipe_network("generator", config))
    message = refusal(
        *("import", "--workdir", tmp_path / "run", "--gen_ab", path),
        *("--config", "configs/horse2zebra.py"),
    )
    assert "expected generator.variant resnet9, got resnet9_same" in message
    message = refusal(
        *("import", "--workdir", tmp_path / "run", "--gen_ab", path),
        *("--config", "configs/firewatch.py"),
    )
    assert "of another shape: conv2d_1/conv2d_1/kernel:0 [7, 7, 3, 2] for [7, 7, 3, 32]" in message


def test_h5py_is_missing(tmp_path, monkeypatch):
    """Without h5py, a Keras file is refused with the command that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    message = refusal(
        "import", "--workdir", tmp_path / "run", "--gen_ab", DATA / "keras_generator.hdf5"
    )
    assert message.endswith("Keras files need h5py: pip install h5py")
