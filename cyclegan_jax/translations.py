"""Test sets and what a model makes of them: the pictures that figures are computed from."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cyclegan_jax import data
from cyclegan_jax.batching import ahead, batches
from cyclegan_jax.data.folder import search
from cyclegan_jax.errors import UserError
from cyclegan_jax.images import make_folder, read_image, write_image
from cyclegan_jax.inference import Translator
from cyclegan_jax.prepared import Prepared, finish

REAL = ("real_a", "real_b")
# {kind of made pictures: (what they are made from, the network that makes them)}
MADE = {
    "fake_b": ("real_a", "gen_ab"),
    "fake_a": ("real_b", "gen_ba"),
    "cycled_a": ("fake_b", "gen_ba"),
    "cycled_b": ("fake_a", "gen_ab"),
    "identity_a": ("real_a", "gen_ba"),
    "identity_b": ("real_b", "gen_ab"),
}
_PIXELS, _PICTURES = 2**18, 16  # that a device computes at a time; of larger pictures, one


class Pictures(NamedTuple):
    """Pictures [H, W, C] of uint8 or uint16 in a list, and what each is called.

    Names are those of files without folders and suffix, numbered where two would be alike.
    """

    pictures: Sequence[np.ndarray]
    names: Sequence[str]


Sets = dict[str, Pictures]


def real_sets(config: Any) -> Sets:
    """{real_a, real_b}: the test pictures as the networks are given them.

    Raises:
        UserError: a domain has no test pictures, or one cannot be read.
    """
    sets = {}
    for domain, source in zip(("a", "b"), data.load_sources(config.data, "test"), strict=True):
        if source is None:
            raise UserError(
                f"domain {domain.upper()} has no test pictures to compute figures from"
                + _where_to_give_them(config.data, domain)
            )
        named = list(data.treated_pictures(config, source, domain=domain))
        if not named:
            raise UserError(f"domain {domain.upper()}: no test picture that can be read")
        sets[f"real_{domain}"] = Pictures(
            [picture for _, picture in named], _short([name for name, _ in named])
        )
    return sets


def _where_to_give_them(settings: Any, domain: str) -> str:
    if settings.source != "folder":
        return f"; data.source={settings.source} has none"
    if settings.direction == "b_to_a":  # the folders keep their letters
        domain = "b" if domain == "a" else "a"
    return f"; give data.test_{domain}, or test{domain.upper()} beside train{domain.upper()}"


def _plain(name: str | Path) -> str:
    """A file's name without folder and suffix, and without what a name of a file may not have."""
    return re.sub(r"[^\w.-]+", "_", Path(name).stem)


def _short(names: Sequence[str]) -> list[str]:
    stems = [_plain(name) for name in names]
    counts = Counter(stems)
    return [stem if counts[stem] == 1 else f"{stem}_{i:05d}" for i, stem in enumerate(stems)]


def make_sets(translator: Translator, real: Sets, kinds: Collection[str]) -> Sets:
    """What a model makes of the test sets, as the 8- or 16-bit pictures that would be saved.

    Args:
        translator: from A to B.
        real: {real_a, real_b}.
        kinds: of `MADE`; those that are asked for are made, in as few passes as it takes.

    Returns:
        The real sets and those made.
    """
    sets = dict(real)
    for source, target, one_way in (("a", "b", translator), ("b", "a", translator.reverse)):
        fake, cycled, identity = f"fake_{target}", f"cycled_{source}", f"identity_{target}"
        reals, own = real[f"real_{source}"], real[f"real_{target}"]
        if fake in kinds or cycled in kinds:
            made = _translated(one_way, reals.pictures, round_trip=cycled in kinds)
            sets |= {
                kind: Pictures(pictures, reals.names)
                for kind, pictures in zip((fake, cycled), made, strict=False)
            }
        if identity in kinds:
            (pictures,) = _translated(one_way, own.pictures, round_trip=False)
            sets[identity] = Pictures(pictures, own.names)
    return sets


def _translated(
    translator: Translator, pictures: Sequence[np.ndarray], *, round_trip: bool
) -> list[list[np.ndarray]]:
    """Translations in the order of the pictures, and what they are brought back to."""
    made: list[dict[int, np.ndarray]] = [{} for _ in range(1 + round_trip)]

    def computed() -> Iterator[tuple[list[int], list[Prepared], list[Any]]]:
        sizes = [(picture.shape[0], picture.shape[1]) for picture in pictures]
        for fill, chosen in batches(translator, sizes, _most):
            prepared = [translator.prepare(pictures[i]) for i in chosen]
            yield chosen, prepared, translator.apply(prepared, fill=fill, round_trip=round_trip)

    for chosen, prepared, outputs in ahead(computed(), 1):
        for results, output in zip(made, outputs, strict=True):
            finished = map(finish, prepared, np.asarray(output))
            results.update(zip(chosen, finished, strict=True))
    return [[results[i] for i in range(len(pictures))] for results in made]


def _most(height: int, width: int) -> int:
    return max(1, min(_PICTURES, _PIXELS // (height * width)))


def save_sets(sets: Sets, folder: Path) -> None:
    """Writes FOLDER/KIND/NAME.png, real ones as well; UserError where they cannot be written."""
    for kind, (pictures, names) in sets.items():
        make_folder(folder / kind)
        for picture, name in zip(pictures, names, strict=True):
            write_image(folder / kind / f"{name}.png", picture)


def read_sets(folder: Path, real: Sets, kinds: Collection[str]) -> Sets:
    """Pictures that were made before, by this program or another, in place of `make_sets`.

    Args:
        folder: holds a folder for every kind, in which pictures have the names of the test
            pictures they were made from, with any suffix.
        real: {real_a, real_b}.
        kinds: those that are needed.

    Raises:
        UserError: a folder or a picture is not there, or it has another size or other channels
            than the domain's.
    """
    sets = dict(real)
    for kind in kinds:
        source = kind if kind in REAL else f"real_{_origin(kind)}"
        channels = real[f"real_{kind[-1]}"].pictures[0].shape[2]
        place = folder / kind
        if not place.is_dir():
            raise UserError(f"{place}: no such folder; it should hold the {kind} pictures")
        found: dict[str, Path] = {}
        for path in search(place, "--pictures"):
            other = found.setdefault(_plain(path), path)
            if other is not path:
                raise UserError(f"{place}: {other.name} and {path.name} are both {_plain(path)}")
        pictures = []
        for name, original in zip(real[source].names, real[source].pictures, strict=True):
            if name not in found:
                raise UserError(f"{place}: no picture called {name}, as one of {source} is")
            picture = read_image(found[name])
            expected = [*original.shape[:2], channels]
            if list(picture.shape) != expected or picture.dtype != original.dtype:
                raise UserError(
                    f"{found[name]}: {picture.dtype} {list(picture.shape)}; the test picture it "
                    f"was made from asks for {original.dtype} {expected}"
                )
            pictures.append(picture)
        sets[kind] = Pictures(pictures, real[source].names)
    return sets


def _origin(kind: str) -> str:
    """The domain of the test pictures that a kind is made from in the end."""
    while kind in MADE:
        kind = MADE[kind][0]
    return kind[-1]
