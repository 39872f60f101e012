"""Trained generators as ONNX, StableHLO and safetensors files: `python -m cyclegan_jax.export`."""
