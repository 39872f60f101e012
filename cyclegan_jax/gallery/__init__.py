"""A run or a folder of translations as one HTML page: `python -m cyclegan_jax.gallery`."""
