"""HTML page of a run or of translated images: `python -m cyclegan_jax.gallery`."""
