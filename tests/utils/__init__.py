"""Tests of cyclegan_jax.utils."""
