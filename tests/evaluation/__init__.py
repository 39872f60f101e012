"""Tests of cyclegan_jax.evaluation."""
