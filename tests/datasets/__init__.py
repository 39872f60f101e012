"""Tests of cyclegan_jax.data."""
