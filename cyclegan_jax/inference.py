"""A trained generator applied to pictures of any size."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from cyclegan_jax.data.treatments import to_channels
from cyclegan_jax.errors import UserError
from cyclegan_jax.images import read_image, to_float, to_uint8, to_uint16
from cyclegan_jax.state import build_networks
from cyclegan_jax.tiles import check_tiles, translate_in_bands

Array = jax.Array
DIRECTIONS = ("a_to_b", "b_to_a")


@functools.partial(jax.jit, static_argnums=0)
def translate(generator: Any, params: Any, pictures: Array) -> Array:
    """One generator's output, without dropout.

    Args:
        generator: a Flax module of `state.build_networks`.
        params: its parameters.
        pictures: float [B, H, W, C] in [-1, 1]; H and W that the generator takes.

    Returns:
        Float [B, H, W, C'] in [-1, 1].
    """
    return generator.apply({"params": params}, pictures)


class Network(NamedTuple):
    """A generator, its parameters, and the channels of the pictures it takes."""

    generator: Any
    params: Any
    channels: int


class Prepared(NamedTuple):
    """A picture as a generator takes it, and what is needed to make a picture of the result.

    Attributes:
        values: [h, w, C], uint8 or uint16, of the network's channels and with padding.
        size: height and width of the picture.
        alpha: [H, W, 1], where it has that and the network does not take it.
    """

    values: np.ndarray
    size: tuple[int, int]
    alpha: np.ndarray | None


class Translator:
    """One direction of a trained model; pictures keep their size, depth and alpha.

        translator = Translator.load("runs/mine")
        images.write_image("zebra.png", translator("horse.png"))

    Sides that the network does not take are extended by reflection, below and to the right, and
    cut again. Channels become those of the network's domain, grey or colour, and the result has
    those of the other domain.

    Attributes:
        there: the generator that translates.
        back: the one of the other direction.
        step: of the checkpoint.
        batch_size: pictures of one size computed at a time; results differ by rounding alone.
        tile: pictures higher than so many rows are computed in bands of as many, in memory that
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
            check_tiles(there.generator, tile)
        self.there = there
        self.back = back
        self.step = step
        self.batch_size = batch_size
        self.tile = tile

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
            wanted = _step(checkpoints, folder, checkpoint)
            step, params = checkpoints.restore_params(config, wanted, averaged=True)
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

    def __call__(self, pictures: np.ndarray | str | os.PathLike) -> np.ndarray:
        """Translates a picture, or several of one size.

        Args:
            pictures: [H, W, C] or [B, H, W, C], uint8 or uint16, or the path of a picture.

        Returns:
            The same but for its colours: [H, W, C'] or [B, H, W, C'].

        Raises:
            UserError: the file cannot be read, the array is no picture, or its channels are not
                the network's and cannot be made.
        """
        return self._run(pictures, round_trip=False)[0]

    def round_trip(self, pictures: np.ndarray | str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
        """Translates as a call does, and brings the result back.

        What is brought back is the network's output as it is in training, with its padding and
        not rounded to the picture's depth.

        Returns:
            The translation, and what it is brought back to.

        Raises:
            UserError: as a call.
        """
        there, back = self._run(pictures, round_trip=True)
        return there, back

    def _run(
        self, pictures: np.ndarray | str | os.PathLike, *, round_trip: bool
    ) -> list[np.ndarray]:
        name = "picture"
        if isinstance(pictures, str | os.PathLike):
            name, pictures = str(pictures), read_image(pictures)
        shape = pictures.shape
        if pictures.dtype not in (np.uint8, np.uint16) or len(shape) not in (3, 4) or 0 in shape:
            raise UserError(
                "pictures are arrays [H, W, C] or [B, H, W, C] of uint8 or uint16, not "
                f"{pictures.dtype} {list(shape)}"
            )
        several = pictures if len(shape) == 4 else pictures[None]
        size = self.batch_for(self.padded_size(*several.shape[1:3])[0], len(several))
        made: list[tuple[np.ndarray, ...]] = []
        for i in range(0, len(several), size):
            batch = [self.prepare(picture, name) for picture in several[i : i + size]]
            outputs = self.apply(batch, fill=size, round_trip=round_trip)
            made += zip(*(map(finish, batch, np.asarray(x)) for x in outputs), strict=True)
        return [np.stack(x) if len(shape) == 4 else x[0] for x in zip(*made, strict=True)]

    def batch_for(self, height: int, pictures: int) -> int:
        """How many pictures of this padded height to compute at a time, where there are so many.

        One where batch norm would let a picture change what becomes of another.
        """
        alone = self.there.generator.style.norm == "batch" or self._in_bands(height)
        return 1 if alone else min(self.batch_size, pictures)

    def _in_bands(self, height: int) -> bool:
        return self.tile is not None and height > self.tile

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The size at which a picture of this size is computed."""
        generator = self.there.generator
        unit = generator.granularity
        least = max(generator.smallest, unit)
        return max(-(-height // unit) * unit, least), max(-(-width // unit) * unit, least)

    def prepare(self, picture: np.ndarray, name: str = "picture") -> Prepared:
        """Makes a picture ready for `apply`.

        Args:
            picture: [H, W, C], uint8 or uint16.
            name: what to call it in messages.

        Raises:
            UserError: its channels are not the network's and cannot be made.
        """
        height, width, channels = picture.shape
        wanted = self.there.channels
        has_alpha = channels in (2, 4) and wanted in (1, 3)
        values = to_channels(picture, wanted, name)
        padded = self.padded_size(height, width)
        if padded != (height, width):
            pads = ((0, padded[0] - height), (0, padded[1] - width), (0, 0))
            values = np.pad(values, pads, mode="reflect")
        return Prepared(values, (height, width), picture[..., -1:] if has_alpha else None)

    def apply(
        self, batch: Sequence[Prepared], *, fill: int = 1, round_trip: bool = False
    ) -> list[Array | np.ndarray]:
        """Computes pictures of one padded size; the device may still be at it on return.

        Args:
            batch: at least one picture, at most `batch_for` so many.
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
                x = translate(network.generator, network.params, x)
            results.append(x)
        return results


def finish(prepared: Prepared, output: np.ndarray) -> np.ndarray:
    """The picture of a result, float [h, w, C'], with the size, depth and alpha it began with."""
    height, width = prepared.size
    to_integer = to_uint8 if prepared.values.dtype == np.uint8 else to_uint16
    picture = to_integer(output[:height, :width])
    if prepared.alpha is None or picture.shape[-1] not in (1, 3):
        return picture
    return np.concatenate([picture, prepared.alpha], axis=-1)


def _step(checkpoints: Any, workdir: Path, checkpoint: str | int) -> int | None:
    """The step that is meant; None for the latest."""
    if checkpoint == "latest":
        return None
    if checkpoint == "best":
        if checkpoints.best is None:
            raise UserError(f"work directory {workdir}: the run kept no best checkpoint")
        return checkpoints.best.step
    try:
        return int(checkpoint)
    except ValueError:
        raise UserError(f"checkpoint {checkpoint!r}; choose latest, best or a step") from None
