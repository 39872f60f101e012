"""Trained generators as ONNX, StableHLO and safetensors files: `python -m cyclegan_jax.export`."""

from cyclegan_jax.export.safetensors import load_safetensors
from cyclegan_jax.export.stablehlo import load_stablehlo

__all__ = ["load_safetensors", "load_stablehlo"]
