"""Reflection padding and its gradient are PyTorch's and NumPy's, in every form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cyclegan_jax.ops import default_form  # noqa: E402
from cyclegan_jax.ops.padding import pad_reflected  # noqa: E402

FORMS = ["direct", "cpu"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        (6, 5, (1, 1), (1, 1)),
        (7, 9, (3, 3), (3, 3)),
        (5, 8, (0, 2), (3, 1)),
        # Pixels that are shown three times.
        (3, 4, (2, 2), (3, 3)),
        (2, 2, (1, 1), (0, 0)),
    ],
)
def test_padding_is_pytorchs(form, height, width, rows, columns):
    """Value and gradient agree, for borders of any width that PyTorch accepts."""
    rng = np.random.default_rng(0)
    # Integers, whose sums are exact in float32.
    x = rng.integers(-99, 99, (2, height, width, 3)).astype(np.float32)
    shape = (2, height + sum(rows), width + sum(columns), 3)
    y = rng.integers(-99, 99, shape).astype(np.float32)
    got, pullback = jax.vjp(lambda x: pad_reflected(x, rows, columns, form), jnp.asarray(x))

    given = torch.tensor(x, requires_grad=True)
    images = given.permute(0, 3, 1, 2)
    padded = torch.nn.functional.pad(images, (*columns, *rows), mode="reflect")
    padded = padded.permute(0, 2, 3, 1)
    padded.backward(torch.tensor(y))
    np.testing.assert_array_equal(got, padded.detach().numpy())
    np.testing.assert_array_equal(pullback(jnp.asarray(y))[0], given.grad.numpy())


@pytest.mark.parametrize("form", FORMS)
def test_form_of_the_backend(form):
    """The form is that of `default_form` where none is given; bfloat16 stays bfloat16."""
    x = jnp.arange(24, dtype=jnp.bfloat16).reshape(1, 4, 3, 2)
    with default_form(form):
        text = str(jax.make_jaxpr(lambda x: pad_reflected(x, (1, 1), (1, 1)))(x))
        assert ("gather" in text) == (form == "direct")
        got = pad_reflected(x, (1, 1), (1, 1))
    assert got.dtype == jnp.bfloat16
    want = np.pad(np.asarray(x, np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(np.asarray(got, np.float32), want)
