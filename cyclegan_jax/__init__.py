"""CycleGAN in JAX: unpaired image-to-image translation (Zhu et al. 2017, arXiv:1703.10593)."""
