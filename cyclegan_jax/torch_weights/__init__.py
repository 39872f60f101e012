"""Weights of the PyTorch original in and out: `python -m cyclegan_jax.torch_weights`."""
