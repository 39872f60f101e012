"""Published CycleGAN datasets from TensorFlow Datasets, read without TensorFlow."""

import contextlib
import difflib
import fcntl
import io
import logging
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import decode_image
from cyclegan_jax.utils.tensorflow import import_tensorflow

_LOG = logging.getLogger(__name__)

NAMES = (
    "apple2orange",
    "summer2winter_yosemite",
    "horse2zebra",
    "monet2photo",
    "cezanne2photo",
    "ukiyoe2photo",
    "vangogh2photo",
    "maps",
    "facades",
    "iphone2dslr_flower",
)


class TFDSSource:
    """Source of encoded images.

    Args:
        records: Thread-safe sequence of {"image": encoded bytes}.
        label: Name of the dataset and split, for messages.
    """

    def __init__(self, records: Sequence[dict[str, Any]], label: str):
        self._records = records
        self._label = label

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> np.ndarray:
        encoded = self._records[index]["image"]
        return decode_image(io.BytesIO(encoded), self.name(index))

    def name(self, index: int) -> str:
        """Return dataset, split and index, such as horse2zebra/trainA[7]."""
        return f"{self._label}[{index}]"


def tfds_source(settings: Any, split: str, domain: str) -> TFDSSource:
    """Open one split and domain of the dataset `data.name`; download and prepare it at first use.

    Args:
        settings: The `data` section of the configuration. Datasets are kept in `data.dir`, or in
            the default folder of TFDS if that is empty.
        split: "train" or "test".
        domain: "a" or "b", as in the names of the dataset's splits.

    Raises:
        UserError: The dataset does not exist or cannot be downloaded, or TFDS is not installed.
    """
    name = settings.name
    if name not in NAMES:
        nearest = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise UserError(f"data.name: expected one of {', '.join(NAMES)}, got {name!r}{hint}")
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(f"data.source=tfds requires tensorflow-datasets: {error}") from error
    full_name, data_dir = f"cycle_gan/{name}", os.path.expanduser(settings.dir) or None  # noqa: PTH111 - a URL
    split_name = f"{split}{domain.upper()}"
    try:
        builder = tfds.builder(full_name, data_dir=data_dir)
        if not builder.is_prepared():
            _check_reachable(builder)
            import_tensorflow()
            with _lock(builder.data_path, name):
                builder = tfds.builder(full_name, data_dir=data_dir)
                if not builder.is_prepared():  # by another process meanwhile
                    # The only format with random access that is read without TensorFlow.
                    builder = tfds.builder(full_name, data_dir=data_dir, file_format="array_record")
                    builder.download_and_prepare()
        # `decode_image` decodes instead, so that damage is reported alike for all sources.
        decoders = {"image": tfds.decode.SkipDecoding()}
        records = builder.as_data_source(split_name, decoders=decoders)
    except NotImplementedError as error:
        raise UserError(
            f"data.name={name}: expected the format array_record in {builder.data_path}, got "
            "another one; set data.dir to another folder to prepare the dataset again"
        ) from error
    except Exception as error:  # the network, the disk, a damaged download, a missing package
        raise UserError(
            f"data.name={name}: not found in {settings.dir or '~/tensorflow_datasets'}, and "
            f"preparing it failed: {' '.join(str(error).split())[:200] or type(error).__name__}"
        ) from error
    return TFDSSource(records, f"{name}/{split_name}")


@contextlib.contextmanager
def _lock(data_path: Any, name: str) -> Iterator[None]:
    """Keep other processes from preparing a dataset; wait for one that does."""
    if "://" in str(data_path):  # a bucket, which has no locks
        yield
        return
    folder = Path(data_path).parent
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _LOG.warning("waiting for another process, which prepares %s in %s", name, folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            _LOG.warning("%s: no file locks here; do not start a second run meanwhile", folder)
        yield


def _check_reachable(builder: Any) -> None:
    """Raise OSError if the host of the download does not answer.

    TFDS would try ten times, for more than three minutes.
    """
    url = getattr(sys.modules[type(builder).__module__], "_DL_URL", "")
    if not url:
        return
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=20).close()
    except urllib.error.HTTPError:
        pass  # the host answers
    except OSError as error:
        raise OSError(f"no connection to {url}: {getattr(error, 'reason', error)}") from error
