"""Convolution and normalisation, each in the form its backend runs fast."""

from cyclegan_jax.ops.convolution import convolve, convolve_transposed
from cyclegan_jax.ops.forms import Form, default_form
from cyclegan_jax.ops.layout import in_default_layout
from cyclegan_jax.ops.norm import (
    Raised,
    fits_kernel,
    inverse_deviation,
    normalise,
    normalise_padded,
)
from cyclegan_jax.ops.padding import pad_reflected

__all__ = [
    "Form",
    "Raised",
    "convolve",
    "convolve_transposed",
    "default_form",
    "fits_kernel",
    "in_default_layout",
    "inverse_deviation",
    "normalise",
    "normalise_padded",
    "pad_reflected",
]
