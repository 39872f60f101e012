"""Convolution and normalisation, each in the form its backend runs fast."""

from cyclegan_jax.ops.convolution import (
    Form,
    convolve,
    convolve_transposed,
    default_form,
)
from cyclegan_jax.ops.norm import Raised, inverse_deviation, normalise

__all__ = [
    "Form",
    "Raised",
    "convolve",
    "convolve_transposed",
    "default_form",
    "inverse_deviation",
    "normalise",
]
