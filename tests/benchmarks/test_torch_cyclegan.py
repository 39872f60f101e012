"""The PyTorch CycleGAN of comparisons: published sizes, names and pool."""

from types import SimpleNamespace as Bag

import pytest

torch = pytest.importorskip("torch")

from benchmarks import torch_cyclegan  # noqa: E402
from benchmarks.torch_networks import (  # noqa: E402
    PatchDiscriminator,
    PixelDiscriminator,
    ResNetGenerator,
    UNetGenerator,
)

# Networks this small run faster on one thread, in particular on shared cores.
torch.set_num_threads(1)

NETWORKS = {
    "resnet9": (lambda: ResNetGenerator(3, 3), 11_378_179),
    "resnet6": (lambda: ResNetGenerator(3, 3, blocks=6), 7_837_699),
    "resnet9 batch": (lambda: ResNetGenerator(3, 3, norm="batch"), 11_383_427),
    "unet128": (lambda: UNetGenerator(3, 3, depth=7), 41_825_667),
    "unet256": (lambda: UNetGenerator(3, 3, depth=8), 54_409_603),
    "unet256 batch": (lambda: UNetGenerator(3, 3, depth=8, norm="batch"), 54_413_955),
    "patch": (lambda: PatchDiscriminator(3), 2_764_737),
    "patch batch": (lambda: PatchDiscriminator(3, norm="batch"), 2_765_633),
    "pixel": (lambda: PixelDiscriminator(3), 8_705),
    "pixel batch": (lambda: PixelDiscriminator(3, norm="batch"), 8_832),
}


def config(**changes: object) -> Bag:
    """Return the published configuration with the smallest networks."""
    return Bag(
        generator=Bag(variant="resnet3", blocks=None, width=2, norm="instance", dropout=0.0),
        discriminator=Bag(variant="patch", width=2, layers=1, norm="instance"),
        loss=Bag(
            mode="lsgan",
            adversarial=1.0,
            cycle_a=10.0,
            cycle_b=10.0,
            identity=0.5,
            identity_every_steps=1,
            real_label=1.0,
            gradient_penalty=10.0,
        ),
        optimizer=Bag(learning_rate=2e-3, beta1=0.5, beta2=0.999),
        data=Bag(channels_a=3, channels_b=3),
        pool_size=2,
        **(
            {"update_first": "generators", "generator_updates": 1, "discriminator_updates": 1}
            | changes
        ),
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_the_published_number_of_parameters(name: str) -> None:
    """Parameter counts are those of the recipes, and pix2pix's 54.414 M for its U-Net of 256."""
    build, expected = NETWORKS[name]
    with torch.device("meta"):
        assert sum(p.numel() for p in build().parameters()) == expected


def test_the_count_of_a_unet_by_hand() -> None:
    """It is the sum over a table of widths: 16 weights per pair of channels, and biases."""
    down = [(3, 64), (64, 128), (128, 256), (256, 512), *[(512, 512)] * 4]
    up = [(512, 512), *[(1024, 512)] * 3, (1024, 256), (512, 128), (256, 64), (128, 3)]
    expected = sum(16 * i * o + o for i, o in down + up)
    assert expected == NETWORKS["unet256"][1]


def test_parameters_have_the_published_names() -> None:
    """Names have the indices of the original's sequences, with and without dropout."""
    with torch.device("meta"):
        resnet = set(ResNetGenerator(3, 3).state_dict())
        dropout = set(ResNetGenerator(3, 3, dropout=0.5).state_dict())
        unet = set(UNetGenerator(3, 3, depth=7, norm="batch").state_dict())
        patch = set(PatchDiscriminator(3).state_dict())
        pixel = set(PixelDiscriminator(3).state_dict())
    convolutions = ["1", "4", "7", "19", "22", "26"]
    blocks = [f"{i}.conv_block.{j}" for i in range(10, 19) for j in (1, 5)]
    both = ("weight", "bias")
    assert resnet == {f"model.{at}.{leaf}" for at in convolutions + blocks for leaf in both}
    assert "model.10.conv_block.6.weight" in dropout
    assert "model.10.conv_block.5.weight" not in dropout
    assert patch == {f"model.{at}.{leaf}" for at in (0, 2, 5, 8, 11) for leaf in both}
    assert pixel == {f"net.{at}.{leaf}" for at in (0, 2, 5) for leaf in both}
    assert {"model.model.0.weight", "model.model.3.weight", "model.model.3.bias"} <= unet
    assert {"model.model.1.model.1.weight", "model.model.1.model.2.running_mean"} <= unet
    innermost = "model.model.1" + ".model.3" * 5
    assert {f"{innermost}.model.{i}.weight" for i in (1, 3, 4)} <= unet
    assert "model.model.0.bias" not in unet


@pytest.mark.parametrize(("layers", "scores"), [(1, 126), (2, 62), (3, 30), (4, 14)])
def test_patch_discriminator_scores(layers: int, scores: int) -> None:
    """256 pixels give 30x30 scores with three layers, and twice the side with one layer less."""
    with torch.device("meta"):
        network = PatchDiscriminator(3, width=4, layers=layers)
        assert network(torch.zeros(1, 3, 256, 256)).shape == (1, 1, scores, scores)


def test_generators_preserve_the_size() -> None:
    """They do so with different channels in and out."""
    with torch.device("meta"):
        for network, side in (
            (ResNetGenerator(1, 4, width=2, norm="batch", dropout=0.5), 20),
            (UNetGenerator(1, 4, width=2, depth=5), 64),
        ):
            assert network(torch.zeros(2, 1, side, side)).shape == (2, 4, side, side)


def test_pool_by_hand() -> None:
    """A pool of two fills, exchanges an image, passes one, and exchanges one place twice."""
    pool = torch_cyclegan.ImagePool(2)
    images = torch.arange(6.0).reshape(6, 1, 1, 1)

    def show(numbers: list[int], draws: list[tuple[bool, int]]) -> list[float]:
        return pool.query(images[numbers], draws).flatten().tolist()

    assert show([0, 1], [(True, 1), (False, 0)]) == [0, 1]
    assert show([2, 3], [(True, 0), (False, 1)]) == [0, 3]
    assert show([4, 5], [(True, 1), (True, 1)]) == [1, 4]
    assert [image.item() for image in pool.images] == [2, 5]


def test_size_zero_returns_the_new_images() -> None:
    """A pool of size 0 is switched off."""
    image = torch.ones(1, 1, 1, 1)
    assert torch_cyclegan.ImagePool(0).query(image, [(True, 0)]).equal(image)


@pytest.mark.parametrize("first", ["generators", "discriminators"])
@pytest.mark.parametrize("mode", ["lsgan", "vanilla", "wgangp"])
def test_training_lowers_the_cycle_loss(mode: str, first: str) -> None:
    """Ten updates on one pair do, and change all four networks."""
    torch.manual_seed(0)
    c = config(update_first=first)
    c.loss.mode = mode
    trainer = torch_cyclegan.Trainer(c)
    before = [p.detach().clone() for p in trainer.networks.parameters()]
    real = torch.rand(2, 1, 3, 16, 16) * 2 - 1
    draws = torch.Generator().manual_seed(0)
    losses = [
        trainer.step(real[0], real[1], torch_cyclegan.draw(1, c.pool_size, draws))
        for _ in range(10)
    ]
    for name in ("generators/cycle_a", "generators/cycle_b"):
        assert losses[-1][name] < losses[0][name]
    weights = [(p, q) for p, q in zip(trainer.networks.parameters(), before, strict=True)]
    assert all(not p.equal(q) for p, q in weights if p.ndim == 4)


def test_gradient_penalty_of_a_linear_critic_by_hand() -> None:
    """Scores that sum 12 values times 0.5 have the slope 0.5 sqrt(12) everywhere."""
    critic = torch.nn.Conv2d(3, 1, 2)
    torch.nn.init.constant_(critic.weight, 0.5)
    real, fake = torch.rand(2, 4, 3, 2, 2)
    penalty = torch_cyclegan.gradient_penalty(critic, real, fake, torch.rand(4))
    assert penalty.item() == pytest.approx((0.5 * 12**0.5 - 1) ** 2, rel=1e-6)
