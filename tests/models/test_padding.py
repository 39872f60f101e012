"""Padding and cropping by the rules of Keras, Paddle and PyTorch, worked by hand on small ramps.

With a kernel of ones an output is the sum of the pixels that its window covers, so every number
below can be added up from the ramp. Both our layers and those of `torch_recipes` must give it.
"""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cyclegan_jax.models.layers import Conv, LayerConfig, ResizeConv, UpConv  # noqa: E402
from tests import torch_recipes  # noqa: E402

FOUR = np.arange(1.0, 17.0).reshape(4, 4)  # rows 1 2 3 4, 5 6 7 8, 9 10 11 12, 13 14 15 16
THREE = np.arange(1.0, 10.0).reshape(3, 3)  # rows 1 2 3, 4 5 6, 7 8 9
TWO = np.array([[1.0, 2.0], [3.0, 4.0]])  # upsampled: rows 1 1 2 2 twice, then 3 3 4 4 twice

CONFIG = LayerConfig()
PLAIN = {"in_channels": 1, "out_channels": 1, "bias": False}


def conv(size, **options):
    return Conv(1, size, CONFIG, use_bias=False, **options)


def strided_end(size):
    """Build monet2photo's last layer: one more row and column of zeros at the top and left."""
    return torch.nn.Sequential(
        torch.nn.ZeroPad2d((1, 0, 1, 0)), torch.nn.Conv2d(**PLAIN, kernel_size=size, padding=1)
    )


# {case: (our layer, PyTorch's layer, image, expected output)}.
CASES = {
    # SAME, 4 pixels, stride 2, kernel 3: 2 outputs need (2 - 1) * 2 + 3 = 5 pixels; the missing
    # one is added at the end. Windows start at 0 and 2.
    "same 3x3 stride 2": (
        conv(3, stride=2, padding="same"),
        torch_recipes.SameConv2d(**PLAIN, kernel_size=3, stride=2),
        FOUR,
        [[54, 45], [72, 54]],
    ),
    # 3 pixels: again 2 outputs and 5 pixels; one of the missing two is added at either end.
    "same 3x3 stride 2 at an odd size": (
        conv(3, stride=2, padding="same"),
        torch_recipes.SameConv2d(**PLAIN, kernel_size=3, stride=2),
        THREE,
        [[12, 16], [24, 28]],
    ),
    # Kernel 4: 6 pixels, one more at either end. Windows start at -1 and 1.
    "same 4x4 stride 2": (
        conv(4, stride=2, padding="same"),
        torch_recipes.SameConv2d(**PLAIN, kernel_size=4, stride=2),
        FOUR,
        [[54, 63], [90, 99]],
    ),
    # Stride 1: 3 outputs need 6 pixels: one before, two after. Windows start at -1, 0, 1.
    "same 4x4 stride 1": (
        conv(4, padding="same"),
        torch_recipes.SameConv2d(**PLAIN, kernel_size=4),
        THREE,
        [[45, 45, 33], [45, 45, 33], [39, 39, 28]],
    ),
    # Two before, one after: windows start at -2, -1, 0.
    "zeros at the top and left, then one around": (
        conv(4, padding=((2, 1), (2, 1))),
        strided_end(4),
        THREE,
        [[12, 21, 21], [27, 45, 45], [27, 45, 45]],
    ),
    # Windows start at -1, which reflects row 1 and column 1, and at 1.
    "reflected 3x3 stride 2": (
        conv(3, stride=2, padding=1, pad_mode="reflect"),
        torch.nn.Conv2d(**PLAIN, kernel_size=3, stride=2, padding=1, padding_mode="reflect"),
        FOUR,
        [[39, 51], [87, 99]],
    ),
    "upsampled, zero padding": (
        ResizeConv(1, 3, CONFIG, padding=1, use_bias=False),
        torch_recipes.ResizeConv2d(**PLAIN, kernel_size=3, padding=1),
        TWO,
        [[4, 8, 10, 8], [10, 18, 21, 16], [14, 24, 27, 20], [12, 20, 22, 16]],
    ),
    # The second row of upsampled pixels equals the first, so reflection repeats the edge.
    "upsampled, reflection padding": (
        ResizeConv(1, 3, CONFIG, padding=1, pad_mode="reflect", use_bias=False),
        torch_recipes.ResizeConv2d(**PLAIN, kernel_size=3, padding=1, padding_mode="reflect"),
        TWO,
        [[9, 12, 15, 18], [15, 18, 21, 24], [21, 24, 27, 30], [27, 30, 33, 36]],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_windows_follow_the_padding_rule(name):
    """Outputs are the sums of windows added up by hand."""
    ours, theirs, image, expected = CASES[name]
    size = ours.size
    output = ours.apply(
        {"params": {"kernel": jnp.ones((size, size, 1, 1))}}, jnp.array(image)[None, :, :, None]
    )
    np.testing.assert_array_equal(output[0, :, :, 0], expected)
    for parameter in theirs.parameters():
        torch.nn.init.ones_(parameter)
    with torch.no_grad():
        np.testing.assert_array_equal(
            theirs(torch.tensor(image)[None, None].float())[0, 0], expected
        )


# Pixel (i, j) adds the kernel at (2i, 2j): once at (0, 0), ten times at (2, 2). The full output is
#   1 2  3  0  0
#   4 5  6  0  0
#   7 8 19 20 30
#   0 0 40 50 60
#   0 0 70 80 90
# SAME doubles the input and crops what a convolution of stride 2 from 4 pixels pads: 0 before and 1
# after (Keras). Paddle counts from the 2 pixels of the input and one output: 3 - 2 = 1 too many, 0
# before and 1 after. PyTorch's padding 1 crops 1 at either end, and its output padding 1 restores
# the last one.
TRANSPOSED = {
    "same": ((0, 1), [[1, 2, 3, 0], [4, 5, 6, 0], [7, 8, 19, 20], [0, 0, 40, 50]]),
    "published": ((1, 0), [[5, 6, 0, 0], [8, 19, 20, 30], [0, 40, 50, 60], [0, 70, 80, 90]]),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_layers_follow_the_cropping_rule(name):
    """The right row and column of the full output are dropped."""
    crop, expected = TRANSPOSED[name]
    image, kernel = np.array([[1.0, 0.0], [0.0, 10.0]]), THREE
    ours = UpConv(1, 3, CONFIG, crop=crop, use_bias=False)
    output = ours.apply(
        {"params": {"kernel": jnp.array(kernel)[:, :, None, None]}},
        jnp.array(image)[None, :, :, None],
    )
    np.testing.assert_array_equal(output[0, :, :, 0], expected)
    # PyTorch's layers halve the channels: two equal inputs, each with half of the weights.
    theirs = {"same": torch_recipes.up_same, "published": torch_recipes.up_published}[name](2)
    for parameter in theirs.parameters():
        half = torch.tensor(kernel).float()[None, None] / 2
        parameter.data = half.expand(2, 1, 3, 3) if parameter.ndim == 4 else torch.zeros(1)
    with torch.no_grad():
        both = torch.tensor(image).float()[None, None].expand(1, 2, 2, 2)
        np.testing.assert_array_equal(theirs(both)[0, 0], expected)
