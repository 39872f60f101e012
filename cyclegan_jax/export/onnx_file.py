"""Generators as ONNX files."""

from pathlib import Path

import jax
import numpy as np

from cyclegan_jax.export.trained import Trained, largest_difference, requires, to_float32
from cyclegan_jax.utils.errors import UserError

_MAX_BYTES = 2**31 - 2**20  # the limit of a file, less some for the graph


@requires("onnx", "onnxruntime")
def export_onnx(trained: Trained, path: Path) -> float:
    """Write an ONNX file; see `trained.Exporter`."""
    import onnx
    import onnxruntime

    from cyclegan_jax.export import onnx_graph

    network = to_float32(trained.network)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(network.params))
    if size > _MAX_BYTES:
        raise UserError(f"export to onnx: expected parameters of less than 2 GiB, got {size} bytes")
    onnx.save(onnx_graph.build_model(network, trained.metadata()), path)
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> np.ndarray:
        inputs = {onnx_graph.INPUT: np.ascontiguousarray(images.transpose(0, 3, 1, 2))}
        return session.run(None, inputs)[0].transpose(0, 2, 3, 1)

    return largest_difference(network, run)
