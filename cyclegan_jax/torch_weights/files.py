"""Read the tensors of a file of weights, in whichever of the known formats it is."""

from pathlib import Path

import numpy as np

from cyclegan_jax.torch_weights import hdf5_files, paddle_files, torch_files
from cyclegan_jax.torch_weights.unpickler import DamagedError
from cyclegan_jax.utils.errors import UserError

# Tensors may share a buffer. Callers copy them, so their total size is bounded as well.
_MAX_SHARING = 8

# Formats in the order in which they are tried: (recognises the first 64 bytes, reads the file).
READERS = (
    (torch_files.is_zip, torch_files.read_zip),
    (torch_files.is_stream, torch_files.read_stream),
    (hdf5_files.is_hdf5, hdf5_files.read_hdf5),
    (paddle_files.is_pickle, paddle_files.read_pickle),
)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read the tensors of one network.

    Args:
        path: A file by PyTorch's `torch.save(network.state_dict(), path)` in either of its formats,
            by Keras's `model.save_weights(path)`, or by `paddle.save(network.state_dict(), path)`.

    Returns:
        Read-only arrays by name, in the order of the file, with the types and shapes of the
        tensors. Together they are at most eight times as large as the file.

    Raises:
        UserError: The file is missing, damaged, or refers to anything other than tensors and plain
            containers.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
        if not start:
            raise UserError("expected a file of weights, got an empty file")
        for recognises, read in READERS:
            if recognises(start):
                arrays = read(path)
                break
        else:
            raise UserError(
                "expected weights of PyTorch (.pth), Keras (.hdf5) or Paddle (.pdparams), got "
                "another format"
            )
        if sum(array.nbytes for array in arrays.values()) > _MAX_SHARING * path.stat().st_size:
            raise DamagedError("its tensors are larger than itself")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DamagedError as error:
        raise UserError(f"{path}: damaged or truncated: {error}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return arrays
