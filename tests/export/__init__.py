"""Tests of cyclegan_jax.export."""
