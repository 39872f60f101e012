"""The formats of exported files."""

from cyclegan_jax.export.onnx_file import export_onnx
from cyclegan_jax.export.safetensors import export_safetensors
from cyclegan_jax.export.stablehlo import export_stablehlo
from cyclegan_jax.export.trained import Exporter

# By name, which is also the file's suffix. See `Exporter` for what to implement.
EXPORTERS: dict[str, Exporter] = {
    "onnx": export_onnx,
    "stablehlo": export_stablehlo,
    "safetensors": export_safetensors,
}
