"""Every form of convolution and normalisation, with gradients, against PyTorch in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from cyclegan_jax.ops import convolution, convolve, convolve_transposed, default_form, matmul
from cyclegan_jax.ops.norm import normalise

FORMS = ("direct", "cpu", "cpu, large")
ONE = ((1, 1), (1, 1))
NONE = ((0, 0), (0, 0))

# kernel, stride, padding, pad_mode, height, width, channels in, channels out
CONVOLUTIONS = [
    (7, 1, ((3, 3), (3, 3)), "reflect", 8, 9, 3, 6),
    (7, 1, ((3, 3), (3, 3)), "reflect", 9, 8, 6, 3),
    (3, 1, ONE, "reflect", 8, 7, 64, 65),
    (3, 1, ONE, "zero", 5, 6, 65, 64),
    (3, 1, NONE, "zero", 9, 6, 64, 64),
    (3, 1, ((2, 1), (0, 3)), "zero", 6, 7, 64, 64),
    (3, 1, ONE, "reflect", 6, 7, 5, 6),
    (1, 1, NONE, "zero", 6, 7, 5, 6),
    (1, 1, NONE, "zero", 6, 7, 5, 1),
    (3, 2, ONE, "zero", 8, 7, 5, 6),
    (3, 2, ((0, 1), (0, 1)), "zero", 8, 6, 5, 6),
    (3, 2, ONE, "reflect", 9, 8, 5, 6),
    (4, 2, ONE, "zero", 8, 9, 3, 6),
    (4, 2, NONE, "zero", 9, 8, 5, 6),
    (4, 1, ONE, "zero", 6, 7, 5, 6),
    (4, 1, ONE, "zero", 7, 6, 6, 1),
    (4, 1, ((2, 1), (2, 1)), "zero", 9, 10, 6, 1),
    (4, 1, ((1, 2), (0, 3)), "reflect", 6, 7, 6, 2),
]

# kernel, crop
TRANSPOSED = [(3, (1, 0)), (3, (0, 1)), (3, (0, 0)), (3, (1, 1)), (3, (1, -3)), (4, (1, 1))]
TRANSPOSED += [(4, (0, 0)), (4, (1, 2)), (4, (2, -1))]


@pytest.fixture
def form(request, monkeypatch):
    """One of `FORMS`; "large" treats small arrays as large ones."""
    form, *large = request.param.split(", ")
    if large:
        monkeypatch.setattr(convolution, "SMALL", 0)
    return form


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def draw(seed, *shapes):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape) for shape in shapes]


def torch_convolve(x, kernel, stride, padding, pad_mode):
    """Apply PyTorch's padding and conv2d to NHWC images and an HWIO kernel."""
    (top, bottom), (left, right) = padding
    mode = {"zero": "constant", "reflect": "reflect"}[pad_mode]
    padded = F.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom), mode=mode)
    kernel = kernel.permute(3, 2, 0, 1).contiguous()
    return F.conv2d(padded, kernel, stride=stride).permute(0, 2, 3, 1)


def torch_transposed(x, kernel, crop):
    full = F.conv_transpose2d(x.permute(0, 3, 1, 2), kernel.permute(2, 3, 0, 1), stride=2)
    start, end = crop
    return F.pad(full, (-start, -end, -start, -end)).permute(0, 2, 3, 1)


def assert_same_to_second_order(ours, theirs, *arrays):
    """Assert that values, gradients, and gradients of a function of the gradients agree."""
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    expected = theirs(*tensors)
    (weights,) = draw(99, tuple(expected.shape))
    first = torch.autograd.grad(
        (expected * torch.tensor(weights)).sum(), tensors, create_graph=True
    )
    second = torch.autograd.grad(sum((g**3).sum() for g in first), tensors)

    def gradients(*arrays):
        value, pullback = jax.vjp(ours, *arrays)
        return value, pullback(jnp.asarray(weights))

    @jax.jit
    def both(*arrays):
        def penalty(*arrays):
            value, first = gradients(*arrays)
            return sum((g**3).sum() for g in first), (value, first)

        grad = jax.grad(penalty, tuple(range(len(arrays))), has_aux=True)
        second, (value, first) = grad(*arrays)
        return value, first, second

    value, got_first, got_second = both(*map(jnp.asarray, arrays))
    pairs = [(value, expected), *zip(got_first, first, strict=True)]
    pairs += zip(got_second, second, strict=True)
    for got, want in pairs:
        want = want.detach().numpy()
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-11 * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("form", FORMS, indirect=True)
@pytest.mark.parametrize(
    ("size", "stride", "padding", "pad_mode", "height", "width", "channels_in", "channels_out"),
    CONVOLUTIONS,
)
def test_convolve_is_pytorchs(
    form, size, stride, padding, pad_mode, height, width, channels_in, channels_out
):
    """Agree for all sizes, strides, paddings and channels, which select the fast forms."""
    options = {"stride": stride, "padding": padding, "pad_mode": pad_mode}
    assert_same_to_second_order(
        lambda x, k: convolve(x, k, form=form, **options),
        lambda x, k: torch_convolve(x, k, **options),
        *draw(0, (2, height, width, channels_in), (size, size, channels_in, channels_out)),
    )


@pytest.mark.parametrize("form", FORMS, indirect=True)
@pytest.mark.parametrize(("size", "crop"), TRANSPOSED)
def test_transposed_is_pytorchs(form, size, crop):
    """Agree for odd and even kernels, also where a negative crop appends zeros."""
    assert_same_to_second_order(
        lambda x, k: convolve_transposed(x, k, crop=crop, form=form),
        lambda x, k: torch_transposed(x, k, crop),
        *draw(1, (2, 5, 4, 3), (size, size, 3, 5)),
    )


@pytest.mark.parametrize("crop", [(1, 0), (0, 1), (1, 1)])
def test_gradients_of_the_direct_form_have_small_windows(crop):
    """No gradient convolves with a window as large as the image, for which cuDNN is slow."""
    x, kernel = draw(6, (1, 16, 16, 3), (4 - sum(crop) % 2, 4 - sum(crop) % 2, 3, 5))

    def total(x, kernel):
        return jnp.square(convolve_transposed(x, kernel, crop=crop, form="direct")).sum()

    traced = str(jax.make_jaxpr(jax.grad(total, (0, 1)))(x, kernel))
    dilated = [
        part for part in traced.split("conv_general_dilated[")[1:] if "lhs_dilation=(2" in part
    ]
    assert len(dilated) == 1  # the forward pass alone
    assert traced.count("rhs_dilation=(2, 2)") == 1


@pytest.mark.parametrize("form", ["direct", "cpu"])
def test_normalise_is_pytorchs(form):
    """Agree with PyTorch's instance norm."""
    with default_form(form):
        assert_same_to_second_order(
            lambda x: normalise(x, 1e-5),
            lambda x: F.instance_norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1),
            *draw(2, (2, 9, 7, 5)),
        )


@pytest.mark.parametrize("form", ["direct", "cpu"])
def test_normalise_by_the_raised_deviation(form):
    """Agree with the formula in PyTorch; flat images give zeros and no gradient."""

    def theirs(x):
        deviation = x.std((1, 2), keepdim=True, correction=0)
        return (x - x.mean((1, 2), keepdim=True)) / (deviation + 0.1)

    def ours(x):
        return normalise(x, 0.1, "deviation")

    with default_form(form):
        assert_same_to_second_order(ours, theirs, *draw(2, (2, 9, 7, 5)))
        flat, pullback = jax.vjp(ours, jnp.full((1, 4, 4, 2), 0.5))
        np.testing.assert_array_equal(flat, 0.0)
        (gradient,) = pullback(jnp.arange(32.0).reshape(1, 4, 4, 2))
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("form", ["direct", "cpu"])
def test_normalise_keeps_its_precision_far_from_zero(form):
    """Agree with NumPy in float64 for a mean a thousand deviations from zero."""
    (x,) = draw(3, (1, 64, 64, 2))
    shifted = (x + 1000).astype(np.float32)
    wide = shifted.astype(np.float64)
    want = (wide - wide.mean((1, 2))) / np.sqrt(wide.var((1, 2)) + 1e-5)
    with default_form(form):
        np.testing.assert_allclose(normalise(jnp.asarray(shifted), 1e-5), want, atol=1e-3)


@pytest.mark.parametrize("form", ["direct", "cpu"])
@pytest.mark.parametrize("shift", [0.0, 3.0, 30.0])
def test_normalise_in_bfloat16(shift, form):
    """Value and gradient are NumPy's in float64, rounded once, to 8 bits."""
    x, y = (jnp.asarray(a, jnp.bfloat16) for a in draw(7, (2, 32, 32, 3), (2, 32, 32, 3)))
    x += jnp.bfloat16(shift)
    with default_form(form):
        got, pullback = jax.vjp(lambda x: normalise(x, 1e-5), x)
        (gradient,) = pullback(y)
    wide, cotangent = np.asarray(x, np.float64), np.asarray(y, np.float64)
    deviation = np.sqrt(wide.var((1, 2), keepdims=True) + 1e-5)
    normed = (wide - wide.mean((1, 2), keepdims=True)) / deviation
    across = cotangent.mean((1, 2), keepdims=True)
    along = (cotangent * normed).mean((1, 2), keepdims=True)
    for actual, want in (
        (got, normed),
        (gradient, (cotangent - across - normed * along) / deviation),
    ):
        assert actual.dtype == jnp.bfloat16
        np.testing.assert_allclose(actual.astype(np.float64), want, rtol=2**-8 + 1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [4, 64])
def test_float32_is_as_accurate_as_pytorch(channels):
    """The error of the forms with fewer multiplications is at most three times PyTorch's."""
    x, kernel = draw(4, (1, 32, 32, channels), (3, 3, channels, 64))
    options = {"stride": 1, "padding": ONE, "pad_mode": "reflect"}
    truth = torch_convolve(torch.tensor(x), torch.tensor(kernel), **options).numpy()
    x, kernel = x.astype(np.float32), kernel.astype(np.float32)
    theirs = torch_convolve(torch.tensor(x), torch.tensor(kernel), **options).numpy()
    ours = convolve(jnp.asarray(x), jnp.asarray(kernel), form="cpu", **options)
    assert ours.dtype == jnp.float32
    assert np.sqrt(np.mean((ours - truth) ** 2)) < 3 * np.sqrt(np.mean((theirs - truth) ** 2))


BFLOAT16 = [("convolve", *case) for case in CONVOLUTIONS]
BFLOAT16 += [("transposed", *case) for case in TRANSPOSED]


@pytest.mark.parametrize("case", BFLOAT16, ids=str)
def test_products_of_bfloat16(case, monkeypatch):
    """Values and gradients are within two roundings of those in float64, sums being float32.

    Winograd's transforms round a second time, which triples the error.
    """
    monkeypatch.setattr(matmul, "has_bfloat16_products", lambda: True)
    monkeypatch.setattr(convolution, "SMALL", 0)
    operation, size, *rest = case
    if operation == "convolve":
        stride, padding, pad_mode, height, width, channels_in, channels_out = rest
        options = {"stride": stride, "padding": padding, "pad_mode": pad_mode}
        shapes = (2, height, width, channels_in), (size, size, channels_in, channels_out)
        ours, theirs = partial(convolve, **options), partial(torch_convolve, **options)
    else:
        shapes = (2, 9, 10, 33), (size, size, 33, 17)
        ours = partial(convolve_transposed, crop=rest[0])
        theirs = partial(torch_transposed, crop=rest[0])
    arrays = [jnp.asarray(a, jnp.bfloat16) for a in draw(0, *shapes)]
    tensors = [torch.tensor(np.asarray(a, np.float64), requires_grad=True) for a in arrays]
    expected = theirs(*tensors)
    (weights,) = (jnp.asarray(a, jnp.bfloat16) for a in draw(9, tuple(expected.shape)))
    grads = torch.autograd.grad(expected, tensors, torch.tensor(np.asarray(weights, np.float64)))
    value, pullback = jax.vjp(partial(ours, form="cpu"), *arrays)
    for got, want in zip((value, *pullback(weights)), (expected, *grads), strict=True):
        want = want.detach().numpy()
        assert got.dtype == jnp.bfloat16
        error = np.sqrt(np.mean((np.asarray(got, np.float64) - want) ** 2))
        assert error < 6e-3 * np.sqrt(np.mean(want**2))


def test_bfloat16_is_rounded_once(monkeypatch):
    """On CPUs without such products, the bfloat16 result is that of float32, rounded."""
    monkeypatch.setattr(matmul, "has_bfloat16_products", lambda: False)
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in draw(5, (1, 6, 6, 64), (3, 3, 64, 64)))
    wide = convolve(x.astype(jnp.float32), kernel.astype(jnp.float32), form="cpu")
    half = convolve(x, kernel, form="cpu")
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, wide.astype(jnp.bfloat16))
    up = convolve_transposed(x, kernel, crop=(1, 0), form="cpu")
    assert up.dtype == jnp.bfloat16
    assert up.shape == (1, 12, 12, 64)
    assert normalise(x, 1e-5).dtype == jnp.bfloat16


@pytest.mark.parametrize("precision", ["default", "highest"])
def test_direct_form_has_jax_default_precision(precision):
    """`JAX_DEFAULT_MATMUL_PRECISION` decides whether GPUs may multiply float32 in TF32."""

    def loss(x, kernel, transposed):
        y = convolve(x, kernel, form="direct")
        return convolve_transposed(y, transposed, form="direct").sum()

    x, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 3))
    with jax.default_matmul_precision(precision):
        text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, kernel, kernel).as_text()
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(lines) >= 4
    assert all(("HIGHEST" in line) == (precision == "highest") for line in lines)
