"""Tests of cyclegan_jax.gallery."""
