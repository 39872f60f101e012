"""The published CycleGAN sets, through TensorFlow Datasets (read without TensorFlow)."""

import difflib
import io
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import numpy as np

from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import decode_image

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


class PublishedSource:
    """Encoded images of one split, decoded when asked for (the protocol of `sources.Source`).

    Args:
      records: {"image": encoded bytes} by index, safe to share by threads.
      count: use this many, from the first.
      label: the set and split, for messages.
    """

    def __init__(self, records: Sequence[dict[str, Any]], count: int, label: str):
        self._records = records
        self._count = count
        self._label = label

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> np.ndarray:
        encoded = self._records[index]["image"]
        return decode_image(io.BytesIO(encoded), self.name(index))

    def name(self, index: int) -> str:
        """Set, split and number, as horse2zebra/trainA[7]."""
        return f"{self._label}[{index}]"


def check_name(name: str) -> None:
    """Raises UserError, with the nearest name and all of them, for a set that is not published."""
    if name in NAMES:
        return
    nearest = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise UserError(f"data.name={name}: {hint}The published sets are {', '.join(NAMES)}")


def published_source(data: Any, split: str, domain: str) -> PublishedSource:
    """One split and domain of the set `data.name`; the first use downloads and prepares the set.

    Args:
      data: the `data` part of the configuration; sets are kept in `data.dir`, or in TFDS's own
        folder where that is empty.
      split: train or test.
      domain: a or b, as the set calls them.

    Raises:
      UserError: no such set, it cannot be downloaded, or TFDS is not installed.
    """
    check_name(data.name)
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(f"data.source=tfds needs tensorflow-datasets: {error}") from error
    full_name, data_dir = f"cycle_gan/{data.name}", data.dir or None
    try:
        builder = tfds.builder(full_name, data_dir=data_dir)
        if not builder.is_prepared():
            _check_reachable(builder)
            # The only format that is read at random and without TensorFlow.
            builder = tfds.builder(full_name, data_dir=data_dir, file_format="array_record")
            builder.download_and_prepare()
        name = f"{split}{domain.upper()}"
        # Decoded by `decode_image` instead, so that damage is reported alike for all sources.
        decoders = {"image": tfds.decode.SkipDecoding()}
        records = builder.as_data_source(name, decoders=decoders)
    except NotImplementedError as error:
        raise UserError(
            f"data.name={data.name}: {builder.data_path} holds it in another format than "
            "array_record: let data.dir name another folder, where it is then prepared anew"
        ) from error
    except Exception as error:  # the network, the disk, a damaged download, a missing package
        where = data.dir or "~/tensorflow_datasets"
        raise UserError(
            f"data.name={data.name}: not found in {where} and preparing it failed: "
            f"{' '.join(str(error).split())[:200] or type(error).__name__}"
        ) from error
    count = min(len(records), data.max_images or len(records))
    return PublishedSource(records, count, f"{data.name}/{name}")


def _check_reachable(builder: Any) -> None:
    """Raises OSError where no answer comes from the host that the set is downloaded from.

    TFDS would try ten times, over more than three minutes.
    """
    url = getattr(sys.modules[type(builder).__module__], "_DL_URL", "")
    if not url:
        return
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=20).close()
    except urllib.error.HTTPError:
        pass  # an answer, if not a friendly one
    except OSError as error:
        raise OSError(f"no connection to {url}: {getattr(error, 'reason', error)}") from error
