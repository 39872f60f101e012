"""A trained generator applied to images of any size."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cyclegan_jax.build import build_networks
from cyclegan_jax.inference.prepare import Prepared, finish, prepare
from cyclegan_jax.inference.tiling import check_tiling, translate_in_bands
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import read_image, to_float

Array = jax.Array
DIRECTIONS = ("a_to_b", "b_to_a")


@functools.partial(jax.jit, static_argnums=0)
def translate(generator: Any, params: Any, images: Array) -> Array:
    """One generator's output, without dropout.

    Args:
        generator: a Flax module of `build.build_networks`.
        params: its parameters.
        images: float [B, H, W, C] in [-1, 1]; H and W that the generator takes.

    Returns:
        Float [B, H, W, C'] in [-1, 1].
    """
    return generator.apply({"params": params}, images)


@functools.partial(jax.jit, static_argnums=0)
def translate_in_shares(generator: Any, params: Any, images: Array) -> Array:
    """`translate` of as many images on each device of this process; parameters are on all."""
    return jax.shard_map(
        generator.apply,
        mesh=_local_mesh(),
        in_specs=(PartitionSpec(), PartitionSpec("batch")),
        out_specs=PartitionSpec("batch"),
        check_vma=False,  # which transposed convolutions inside do not pass
    )({"params": params}, images)


def _local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), "batch")


class Network(NamedTuple):
    """A generator, its parameters, and the channels of the images it takes."""

    generator: Any
    params: Any
    channels: int


class Translator:
    """One direction of a trained model; images keep their size, depth and alpha.

        translator = Translator.load("runs/mine")
        images.write_image("zebra.png", translator("horse.png"))

    Sides that the network does not take are extended by reflection, below and to the right, and
    cut again. Channels become those of the network's domain, grey or colour, and the result has
    those of the other domain.

    Attributes:
        there: the generator that translates.
        back: the one of the other direction.
        step: of the checkpoint.
        batch_size: images of one size computed at a time by each device of this process; results
            differ by rounding alone.
        tile: images higher than so many rows are computed in bands of as many, in memory that
            grows with `tile` x width (see `tiles`); results differ by rounding alone.
    """

    def __init__(
        self,
        there: Network,
        back: Network,
        step: int,
        *,
        batch_size: int = 1,
        tile: int | None = None,
    ):
        """Takes both networks; `load` finds them.

        Raises:
            UserError: for a batch size below 1, or tiles that the networks do not take.
        """
        if batch_size < 1:
            raise UserError(f"a batch size of {batch_size}; at least 1 was expected")
        if tile is not None:
            check_tiling(there.generator, tile)
        self.there = there
        self.back = back
        self.step = step
        self.batch_size = batch_size
        self.tile = tile
        self._spread: dict[int, Any] = {}  # parameters on all devices, by network

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
        """The translator of a run.

        Args:
            workdir: of the run.
            direction: one of `DIRECTIONS`.
            checkpoint: latest, best, or a step.
            batch_size: see the class.
            tile: see the class.

        Raises:
            UserError: where there is no such run or checkpoint, it cannot be read, or it takes no
                tiles.
        """
        # Here, for all else about generators works where ml_collections is not installed.
        from cyclegan_jax import config as config_lib
        from cyclegan_jax.checkpoint import Checkpoints

        if direction not in DIRECTIONS:
            raise UserError(f"direction {direction!r}; choose from {', '.join(DIRECTIONS)}")
        folder = Path(workdir).expanduser()
        if not folder.is_dir():
            raise UserError(f"work directory {folder}: there is no such folder")
        if not (folder / "config.json").is_file() or not (folder / "checkpoints").is_dir():
            raise UserError(
                f"work directory {folder}: no run in it; config.json and checkpoints were expected"
            )
        config = config_lib.read_json(folder / "config.json")
        if config.precision == "float64":
            jax.config.update("jax_enable_x64", True)
        checkpoints = Checkpoints(folder, read_only=True)
        try:
            step, params = checkpoints.restore_params(config, checkpoint, averaged=True)
        finally:
            checkpoints.close()
        translator = cls.of(config, params, step, batch_size=batch_size, tile=tile)
        return translator if direction == "a_to_b" else translator.reverse

    @classmethod
    def of(cls, config: Any, params: dict[str, Any], step: int, **options: Any) -> Self:
        """The translator from A to B of parameters {gen_ab, gen_ba, ...} at hand.

        They may lie on several devices, alike on all. Options are `batch_size` and `tile`.
        """
        networks = build_networks(config)
        channels = {"gen_ab": config.data.channels_a, "gen_ba": config.data.channels_b}
        there, back = (
            Network(
                getattr(networks, name),
                jax.tree.map(lambda x: x.addressable_data(0), params[name]),
                channels[name],
            )
            for name in ("gen_ab", "gen_ba")
        )
        return cls(there, back, step, **options)

    @property
    def reverse(self) -> Self:
        """The translator of the other direction."""
        cls = type(self)
        return cls(self.back, self.there, self.step, batch_size=self.batch_size, tile=self.tile)

    def __call__(self, images: np.ndarray | str | os.PathLike) -> np.ndarray:
        """Translates an image, or several of one size.

        Args:
            images: [H, W, C] or [B, H, W, C], uint8 or uint16, or the path of an image.

        Returns:
            The same but for its colours: [H, W, C'] or [B, H, W, C'].

        Raises:
            UserError: the file cannot be read, the array is no image, or its channels are not
                the network's and cannot be made.
        """
        return self._run(images, round_trip=False)[0]

    def round_trip(self, images: np.ndarray | str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
        """Translates as a call does, and brings the result back.

        What is brought back is the network's output as it is in training, with its padding and
        not rounded to the image's depth.

        Returns:
            The translation, and what it is brought back to.
        """
        there, back = self._run(images, round_trip=True)
        return there, back

    def _run(self, images: np.ndarray | str | os.PathLike, *, round_trip: bool) -> list[np.ndarray]:
        name = "image"
        if isinstance(images, str | os.PathLike):
            name, images = str(images), read_image(images)
        shape = images.shape
        if images.dtype not in (np.uint8, np.uint16) or len(shape) not in (3, 4) or 0 in shape:
            raise UserError(
                "images are arrays [H, W, C] or [B, H, W, C] of uint8 or uint16, not "
                f"{images.dtype} {list(shape)}"
            )
        several = images if len(shape) == 4 else images[None]
        size = self.batch_for(self.padded_size(*several.shape[1:3])[0], len(several))
        made: list[tuple[np.ndarray, ...]] = []
        for i in range(0, len(several), size):
            batch = [self.prepare(image, name) for image in several[i : i + size]]
            outputs = self.apply(batch, fill=size, round_trip=round_trip)
            made += zip(*(map(finish, batch, np.asarray(x)) for x in outputs), strict=True)
        return [np.stack(x) if len(shape) == 4 else x[0] for x in zip(*made, strict=True)]

    def batch_for(self, height: int, images: int, batch_size: int | None = None) -> int:
        """How many of so many images of this padded height to compute at a time.

        As many on each device, or fewer than there are devices. One where batch norm would let a
        image change what becomes of another.

        Args:
            height: see `padded_size`.
            images: there are.
            batch_size: on a device; by default the translator's.
        """
        if self.there.generator.mixes_images or self._in_bands(height):
            return 1
        batch_size, devices = batch_size or self.batch_size, jax.local_device_count()
        if images < devices:
            return min(batch_size, images)
        return devices * min(batch_size, images // devices)

    def _in_bands(self, height: int) -> bool:
        return self.tile is not None and height > self.tile

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The size at which an image of this size is computed."""
        generator = self.there.generator
        unit = generator.granularity
        least = max(generator.smallest, unit)
        return max(-(-height // unit) * unit, least), max(-(-width // unit) * unit, least)

    def prepare(self, image: np.ndarray, name: str = "image") -> Prepared:
        """Makes an image ready for `apply`.

        Args:
            image: [H, W, C], uint8 or uint16.
            name: what to call it in messages.
        """
        size = self.padded_size(*image.shape[:2])
        return prepare(image, self.there.channels, size, name)

    def apply(
        self, batch: Sequence[Prepared], *, fill: int = 1, round_trip: bool = False
    ) -> list[Array | np.ndarray]:
        """Computes images of one padded size; the device may still be at it on return.

        Args:
            batch: at least one image, at most `batch_for` so many.
            fill: how many to compute at least, so that a last batch needs no compilation of its
                own.
            round_trip: whether to bring the translations back.

        Returns:
            The translations, and what they are brought back to: float [B, h, w, C'], B >= `fill`.
        """
        in_bands = self._in_bands(batch[0].values.shape[0])
        x: Any
        if in_bands:
            x = batch[0].values[None]
        else:
            indices = range(max(fill, len(batch)))
            x = np.stack([to_float(batch[i % len(batch)].values) for i in indices])
        results = []
        for network in (self.there, self.back)[: 1 + round_trip]:
            if in_bands:
                assert self.tile is not None
                x = translate_in_bands(network.generator, network.params, x[0], self.tile)[None]
            else:
                x = self._compute(network, x)
            results.append(x)
        return results

    def _compute(self, network: Network, x: Any) -> Array:
        """On all devices of this process where there are images for each."""
        devices = jax.local_device_count()
        if devices == 1 or len(x) % devices:
            return translate(network.generator, network.params, x)
        if id(network) not in self._spread:
            everywhere = NamedSharding(_local_mesh(), PartitionSpec())
            self._spread[id(network)] = jax.device_put(network.params, everywhere)
        return translate_in_shares(network.generator, self._spread[id(network)], x)
