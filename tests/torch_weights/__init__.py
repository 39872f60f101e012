"""Tests of `cyclegan_jax.torch_weights`."""
