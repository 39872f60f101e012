"""Read the weights of a Keras model from HDF5, as `model.save_weights` writes them.

The root lists its layers in an attribute, each layer's group its tensors. A file is hostile input:
only uncompressed tensors that lie in it are read, so that they take no more memory than it.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from cyclegan_jax.torch_weights.unpickler import DamagedError
from cyclegan_jax.utils.errors import UserError

_MAGIC = b"\x89HDF\r\n\x1a\n"
_MAX_LIST_BYTES = 64 << 10  # of an attribute that lists names
_MAX_TENSORS = 10_000


def is_hdf5(start: bytes) -> bool:
    """Return whether a file that starts with these bytes is HDF5."""
    return start.startswith(_MAGIC)


def read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """Read arrays by names such as `conv2d_1/conv2d_1/kernel:0`, in the order of the layers."""
    try:
        import h5py
    except ImportError as error:
        raise UserError("Keras files need h5py: pip install h5py") from error
    size = path.stat().st_size
    arrays: dict[str, np.ndarray] = {}
    try:
        with h5py.File(path, "r", locking=False) as file:
            for layer in _names(file, "layer_names"):
                group = _follow(file, layer)
                for name in _names(group, "weight_names"):
                    if len(arrays) == _MAX_TENSORS:
                        raise DamagedError(f"it has more than {_MAX_TENSORS} tensors")
                    dataset = _follow(group, name)
                    size -= _check_dataset(dataset, size)
                    array = dataset[()]
                    array.flags.writeable = False
                    arrays[f"{layer}/{name}"] = array
    except UserError:
        raise
    except Exception as error:  # h5py's documentation leaves open which
        raise DamagedError("its HDF5 structure cannot be read") from error
    if not arrays:
        raise UserError("expected the weights of a Keras model, got a file without tensors")
    return arrays


def _names(group: Any, attribute: str) -> list[str]:
    """Return the strings of an attribute."""
    import h5py

    if not isinstance(group, h5py.Group) or attribute not in group.attrs:
        raise UserError(
            f"expected a file by Keras's model.save_weights, got HDF5 without {attribute}"
        )
    stored = h5py.h5a.open(group.id, attribute.encode())
    if stored.shape == (0,):  # Keras then stores numbers
        return []
    # HDF5 allocates strings of variable length by the sizes that a file claims.
    if stored.dtype.kind != "S" or len(stored.shape) != 1:
        raise UserError(
            f"expected strings of fixed length in {attribute}, as h5py 2 writes them, got others; "
            "set the attribute of each group to numpy.array(names, 'S')"
        )
    if stored.shape[0] * stored.dtype.itemsize > _MAX_LIST_BYTES:
        raise DamagedError(f"expected at most {_MAX_LIST_BYTES >> 10} KiB in {attribute}")
    return [name.decode() for name in group.attrs[attribute]]


def _follow(group: Any, name: str) -> Any:
    """Return the object at a path such as a/b, without leaving the file."""
    import h5py

    for part in name.split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) and part else None
        if not isinstance(link, h5py.HardLink):
            raise DamagedError("it lacks a tensor that it lists")
        group = group[part]
    return group


def _check_dataset(dataset: Any, most: int) -> int:
    """Return the bytes of a tensor, at most `most`, that lies in the file as it is."""
    import h5py

    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise DamagedError("it lacks a tensor that it lists")
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize > 8:
        raise UserError("expected tensors of floating-point numbers, got another type")
    if dataset.chunks is not None or dataset.external is not None or dataset.is_virtual:
        raise UserError("expected tensors without compression, stored in the file itself")
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    if size > most or dataset.id.get_storage_size() != size:
        raise DamagedError("its tensors are larger than itself")
    return size
