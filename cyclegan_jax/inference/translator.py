"""A trained generator applied to images of any size."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cyclegan_jax.build import build_networks
from cyclegan_jax.inference.prepare import Prepared, finish, prepare
from cyclegan_jax.inference.programs import jit_by_size
from cyclegan_jax.inference.tiling import check_tiling, translate_in_bands
from cyclegan_jax.state import Networks
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import read_image, to_float

Array = jax.Array
DIRECTIONS = ("a_to_b", "b_to_a")
PROGRAMS = 32  # sizes, of images and batches, whose programs are kept


@jit_by_size(PROGRAMS)
def translate(generator: Any, params: Any, images: Array) -> Array:
    """Apply a generator without dropout.

    Args:
        generator: A Flax module of the protocol `models.protocol.Generator`.
        params: Its parameters.
        images: Float [B, H, W, C] in [-1, 1], of a size that the generator takes.

    Returns:
        Float [B, H, W, C'] in [-1, 1].
    """
    return generator.apply({"params": params}, images)


@jit_by_size(PROGRAMS)
def translate_sharded(generator: Any, params: Any, images: Array) -> Array:
    """Apply `translate` to an equal shard of the images on each device of this process."""
    return jax.shard_map(
        generator.apply,
        mesh=_local_mesh(),
        in_specs=(PartitionSpec(), PartitionSpec("batch")),
        out_specs=PartitionSpec("batch"),
        check_vma=False,  # transposed convolutions do not pass it
    )({"params": params}, images)


def _local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), "batch")


class Network(NamedTuple):
    """A generator, its parameters, and the number of channels of its input."""

    generator: Any
    params: Any
    channels: int


class Translator:
    """One direction of a trained model; images keep their size, bit depth and alpha.

        translator = Translator.load("runs/mine")
        write_image("zebra.png", translator("horse.png"))

    Sides that the network does not take are padded by reflection, below and to the right, and
    cropped again. Channels are converted to those of the network's domain, grey or colour, and the
    result has those of the other domain.

    Attributes:
        network: The generator that translates.
        reverse_network: The generator of the other direction.
        step: Step of the checkpoint.
        batch_size: Images of one size that each device of this process computes at a time; results
            differ by rounding only.
        tile: Images of more rows than this are computed in bands of `tile` rows, in memory that
            grows with tile x width (see `tiling`); results differ by rounding only.
    """

    def __init__(
        self,
        network: Network,
        reverse_network: Network,
        step: int,
        *,
        batch_size: int = 1,
        tile: int | None = None,
    ):
        """Combine two networks; `load` finds those of a run.

        Raises:
            UserError: The batch size is below 1, or the network does not support such tiles.
        """
        if batch_size < 1:
            raise UserError(f"batch size: expected at least 1, got {batch_size}")
        if tile is not None:
            check_tiling(network.generator, tile)
        self.network = network
        self.reverse_network = reverse_network
        self.step = step
        self.batch_size = batch_size
        self.tile = tile
        self._replicated: dict[int, Any] = {}  # parameters on all devices, by network

    @classmethod
    def load(
        cls,
        workdir: str | os.PathLike,
        direction: str = "a_to_b",
        checkpoint: str | int = "latest",
        *,
        batch_size: int = 1,
        tile: int | None = None,
    ) -> Self:
        """Load the translator of a run.

        Args:
            workdir: Work directory of the run.
            direction: One of `DIRECTIONS`.
            checkpoint: "latest", "best", or a step.
            batch_size: See the class.
            tile: See the class.

        Raises:
            UserError: There is no such run or checkpoint, it cannot be read, or the network does
                not support tiles.
        """
        # Not at the top: everything else here works where ml_collections is not installed.
        from cyclegan_jax import config as config_lib
        from cyclegan_jax.checkpoint import Checkpoints

        if direction not in DIRECTIONS:
            raise UserError(
                f"direction: expected one of {', '.join(DIRECTIONS)}, got {direction!r}"
            )
        folder = Path(workdir).expanduser()
        if not folder.is_dir():
            raise UserError(f"work directory {folder}: no such folder")
        if not (folder / "config.json").is_file() or not (folder / "checkpoints").is_dir():
            raise UserError(
                f"work directory {folder}: expected config.json and checkpoints of a run"
            )
        config = config_lib.read_json(folder / "config.json")
        if config.precision == "float64":
            jax.config.update("jax_enable_x64", True)
        checkpoints = Checkpoints(folder, config.to_dict(), read_only=True)
        try:
            step, params = checkpoints.restore_params(checkpoint, averaged=True)
        finally:
            checkpoints.close()
        translator = cls.of(build_networks(config), params, step, batch_size=batch_size, tile=tile)
        return translator if direction == "a_to_b" else translator.reverse

    @classmethod
    def of(cls, networks: Networks, params: dict[str, Any], step: int, **options: Any) -> Self:
        """Return the translator from A to B of networks and parameters in memory.

        Args:
            networks: The networks of a model.
            params: {gen_ab, gen_ba, ...}; may be replicated over devices.
            step: Step of the parameters.
            **options: `batch_size` and `tile`.
        """
        ab, ba = (
            Network(
                getattr(networks, name),
                jax.tree.map(lambda x: x.addressable_data(0), params[name]),
                # The input of one generator has the channels of the other's output.
                getattr(networks, other).channels,
            )
            for name, other in (("gen_ab", "gen_ba"), ("gen_ba", "gen_ab"))
        )
        return cls(ab, ba, step, **options)

    @property
    def reverse(self) -> Self:
        """The translator of the other direction."""
        return type(self)(
            self.reverse_network,
            self.network,
            self.step,
            batch_size=self.batch_size,
            tile=self.tile,
        )

    def __call__(self, images: np.ndarray | str | os.PathLike) -> np.ndarray:
        """Translate an image, or several of one size.

        Args:
            images: [H, W, C] or [B, H, W, C], uint8 or uint16, or the path of an image.

        Returns:
            [H, W, C'] or [B, H, W, C'] of the same type.

        Raises:
            UserError: The file cannot be read, the array is no image, or its channels cannot be
                converted to the network's.
        """
        return self._run(images, round_trip=False)[0]

    def round_trip(self, images: np.ndarray | str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
        """Translate images and translate the result back.

        The way back starts from the network's output, padded and not rounded to the image's depth,
        as in training.

        Returns:
            The translation, and the reconstruction.
        """
        translated, reconstructed = self._run(images, round_trip=True)
        return translated, reconstructed

    def _run(self, images: np.ndarray | str | os.PathLike, *, round_trip: bool) -> list[np.ndarray]:
        name = "image"
        if isinstance(images, str | os.PathLike):
            name, images = str(images), read_image(images)
        shape = images.shape
        if images.dtype not in (np.uint8, np.uint16) or len(shape) not in (3, 4) or 0 in shape:
            raise UserError(
                "images: expected arrays [H, W, C] or [B, H, W, C] of uint8 or uint16, got "
                f"{images.dtype} {list(shape)}"
            )
        batch = images if len(shape) == 4 else images[None]
        size = self.batch_for(self.padded_size(*batch.shape[1:3])[0], len(batch))
        results: list[tuple[np.ndarray, ...]] = []
        for i in range(0, len(batch), size):
            prepared = [self.prepare(image, name) for image in batch[i : i + size]]
            outputs = self.apply(prepared, fill=size, round_trip=round_trip)
            results += zip(*(map(finish, prepared, np.asarray(x)) for x in outputs), strict=True)
        return [np.stack(x) if len(shape) == 4 else x[0] for x in zip(*results, strict=True)]

    def batch_for(self, height: int, images: int, batch_size: int | None = None) -> int:
        """Return how many images of one padded size to compute at a time.

        The same number on each device, or fewer than there are devices; 1 where batch norm would
        let images influence each other.

        Args:
            height: Padded height, see `padded_size`.
            images: Number of images.
            batch_size: Images per device; by default the translator's.
        """
        if self.network.generator.mixes_images or self._uses_bands(height):
            return 1
        batch_size, devices = batch_size or self.batch_size, jax.local_device_count()
        if images < devices:
            return min(batch_size, images)
        return devices * min(batch_size, images // devices)

    def _uses_bands(self, height: int) -> bool:
        return self.tile is not None and height > self.tile

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) at which an image of this size is computed."""
        generator = self.network.generator
        unit = generator.granularity
        least = max(generator.smallest, unit)
        return max(-(-height // unit) * unit, least), max(-(-width // unit) * unit, least)

    def prepare(self, image: np.ndarray, name: str = "image") -> Prepared:
        """Prepare an image for `apply`.

        Args:
            image: [H, W, C], uint8 or uint16.
            name: Name of the image in messages.
        """
        size = self.padded_size(*image.shape[:2])
        return prepare(image, self.network.channels, size, name)

    def apply(
        self, batch: Sequence[Prepared], *, fill: int = 1, round_trip: bool = False
    ) -> list[Array | np.ndarray]:
        """Translate images of one padded size; the device may still be computing on return.

        Args:
            batch: One to `batch_for` images.
            fill: Least number of images to compute, so that a last, smaller batch is not compiled
                separately.
            round_trip: Whether to translate the results back.

        Returns:
            The translations, and the reconstructions: float [B, h, w, C'], B >= `fill`.
        """
        in_bands = self._uses_bands(batch[0].values.shape[0])
        x: Any
        if in_bands:
            x = batch[0].values[None]
        else:
            indices = range(max(fill, len(batch)))
            x = np.stack([to_float(batch[i % len(batch)].values) for i in indices])
        results = []
        for network in (self.network, self.reverse_network)[: 1 + round_trip]:
            if in_bands:
                assert self.tile is not None
                x = translate_in_bands(network.generator, network.params, x[0], self.tile)[None]
            else:
                x = self._translate(network, x)
            results.append(x)
        return results

    def _translate(self, network: Network, x: Any) -> Array:
        """Translate on all devices of this process, if each gets an equal number of images."""
        devices = jax.local_device_count()
        if devices == 1 or len(x) % devices:
            return translate(network.generator, network.params, x)
        if id(network) not in self._replicated:
            everywhere = NamedSharding(_local_mesh(), PartitionSpec())
            self._replicated[id(network)] = jax.device_put(network.params, everywhere)
        return translate_sharded(network.generator, self._replicated[id(network)], x)
