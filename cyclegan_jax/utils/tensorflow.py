"""Import of TensorFlow, which writes TensorBoard's files for CLU and prepares TFDS datasets."""

import contextlib
import os
import sys


def import_tensorflow() -> None:
    """Import TensorFlow quietly, without its GPU support, and beside PyTorch.

    To be called before what imports TensorFlow itself. Does nothing if it is imported already.

    Raises:
        ImportError: TensorFlow is not installed.
    """
    if "tensorflow" in sys.modules:
        return
    # From 2.20 on TensorFlow's wheels make the symbols of their LLVM global. Triton, which PyTorch
    # imports with the first optimiser, crashes if it is linked to these rather than to its own
    # (github.com/tensorflow/tensorflow/issues/124205). Loaded first, it keeps its own.
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it would log that at length
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # its memory is JAX's
