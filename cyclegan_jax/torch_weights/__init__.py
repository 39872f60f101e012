"""Import and export of PyTorch weights: `python -m cyclegan_jax.torch_weights`."""
