"""Convolutions and normalisation: every form against PyTorch in float64, and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cyclegan_jax.convolutions import convolve, convolve_transposed, normalise

FORMS = ("direct", "cpu")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def draw(seed, *shapes):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape) for shape in shapes]


def torch_convolve(x, kernel, stride, padding, pad_mode):
    """NHWC and HWIO around PyTorch's conv2d after its own padding."""
    (top, bottom), (left, right) = padding
    mode = {"zero": "constant", "reflect": "reflect"}[pad_mode]
    padded = F.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom), mode=mode)
    return F.conv2d(padded, kernel.permute(3, 2, 0, 1).contiguous(), stride=stride).permute(
        0, 2, 3, 1
    )


def torch_transposed(x, kernel, crop):
    full = F.conv_transpose2d(x.permute(0, 3, 1, 2), kernel.permute(2, 3, 0, 1), stride=2)
    start, end = crop
    return F.pad(full, (-start, -end, -start, -end)).permute(0, 2, 3, 1)


def assert_same_with_gradients(ours, theirs, *arrays):
    """Value and gradients of the two functions agree; the cotangent is a fixed random array."""
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    expected = theirs(*tensors)
    (weights,) = draw(99, tuple(expected.shape))
    gradients = torch.autograd.grad((expected * torch.tensor(weights)).sum(), tensors)
    value, pullback = jax.vjp(ours, *map(jnp.asarray, arrays))
    assert value.shape == expected.shape
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=0, atol=1e-11)
    for got, want in zip(pullback(jnp.asarray(weights)), gradients, strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-10)


CONVOLUTIONS = [
    # kernel, stride, padding, pad_mode
    (7, 1, ((3, 3), (3, 3)), "reflect"),
    (3, 1, ((1, 1), (1, 1)), "reflect"),
    (3, 1, ((1, 1), (1, 1)), "zero"),
    (3, 1, ((0, 0), (0, 0)), "zero"),
    (1, 1, ((0, 0), (0, 0)), "zero"),
    (3, 2, ((1, 1), (1, 1)), "zero"),
    (3, 2, ((0, 1), (0, 1)), "zero"),
    (3, 2, ((1, 1), (1, 1)), "reflect"),
    (4, 2, ((1, 1), (1, 1)), "zero"),
    (4, 2, ((1, 1), (1, 1)), "reflect"),
    (4, 1, ((1, 1), (1, 1)), "zero"),
    (4, 1, ((2, 1), (2, 1)), "zero"),
    (4, 1, ((1, 2), (0, 3)), "zero"),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("size", "stride", "padding", "pad_mode"), CONVOLUTIONS)
def test_convolve_is_pytorchs(form, size, stride, padding, pad_mode):
    """Value and both gradients, for odd and even, square and oblong pictures."""
    for height, width in ((8, 8), (9, 12), (11, 7)):
        for channels in ((3, 5), (8, 1)):
            assert_same_with_gradients(
                lambda x, k: convolve(
                    x, k, stride=stride, padding=padding, pad_mode=pad_mode, form=form
                ),
                lambda x, k: torch_convolve(x, k, stride, padding, pad_mode),
                *draw(0, (2, height, width, channels[0]), (size, size, *channels)),
            )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("size", "crop"),
    [
        (3, (1, 0)),
        (3, (0, 1)),
        (3, (0, 0)),
        (3, (1, 1)),
        (3, (0, -1)),
        (4, (1, 1)),
        (4, (0, 0)),
        (4, (1, 2)),
        (4, (2, -1)),
        (2, (0, 0)),
    ],
)
def test_transposed_is_pytorchs(form, size, crop):
    for height, width in ((4, 4), (5, 6)):
        assert_same_with_gradients(
            lambda x, k: convolve_transposed(x, k, crop=crop, form=form),
            lambda x, k: torch_transposed(x, k, crop),
            *draw(1, (2, height, width, 3), (size, size, 3, 5)),
        )


@pytest.mark.parametrize("form", FORMS)
def test_normalise_is_pytorchs(form):
    assert_same_with_gradients(
        lambda x: normalise(x, (1, 2), 1e-5, form=form),
        lambda x: F.instance_norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1),
        *draw(2, (2, 9, 7, 5)),
    )
