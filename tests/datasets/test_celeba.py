"""Faces in one folder, split into domains by a table of attributes."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from configs import default
from cyclegan_jax.data import build_train_dataset, celeba, open_sources, open_split
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import write_image

NAMES = ("Bald", "Black_Hair", "Blond_Hair", "Eyeglasses", "Young")
COUNT = 40
HEAD = "image_id,Black_Hair,Blond_Hair\n"
# Not in the order of the names; all combinations of the five attributes occur.
ROWS = [
    (f"{number:06d}.jpg", [int(COUNT - number) >> bit & 1 for bit in range(5)])
    for number in (*range(1, COUNT, 2), *range(COUNT, 0, -2))
]


def csv_text(present="1", absent="-1", end="\n", space=""):
    """Return the table as CSV."""
    rows = [("image_id", *NAMES)]
    rows += [(name, *(present if v else absent for v in values)) for name, values in ROWS]
    return end.join(f",{space}".join(row) for row in rows) + end


def original_text():
    """Return the table as its authors publish it: a count, the names, rows in columns."""
    lines = [str(COUNT), " ".join(NAMES) + " "]
    lines += [f"{name} " + " ".join(f"{v or -1:2d}" for v in values) for name, values in ROWS]
    return "\n".join(lines) + "\n"


def plain(attribute_a="Black_Hair", attribute_b="Blond_Hair", existing=None):
    """Return the names of both domains by a plain loop over the rows, as the oracle."""
    domains = [], []
    for name, values in ROWS:
        if existing is not None and name not in existing:
            continue
        for domain, attribute in zip(domains, (attribute_a, attribute_b), strict=True):
            if values[NAMES.index(attribute.lstrip("-"))] != attribute.startswith("-"):
                domain.append(name)
                break  # A comes first
    return domains


def shade(name):
    """Return the grey value of a face's image."""
    return 5 * int(name[:6])


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """Return a folder of all faces, each in its own shade."""
    folder = tmp_path_factory.mktemp("faces")
    for name, _ in ROWS:
        write_image(folder / name, np.full((22, 18, 3), shade(name), np.uint8))
    return folder


@pytest.fixture
def root(unpacked, tmp_path):
    """Return a copy of the dataset in the layout of Kaggle's archive."""
    folder = tmp_path / "data" / "celeba"
    shutil.copytree(unpacked, folder / "img_align_celeba" / "img_align_celeba")
    (folder / "list_attr_celeba.csv").write_text(csv_text())
    return folder


def faces(root: Path) -> Path:
    return root / "img_align_celeba" / "img_align_celeba"


def make_config(root, **fields):
    config = default.get_config()
    config.batch_size = 1
    config.data.update({"source": "celeba", "dir": str(root), "threads": 1, **fields})
    return config


def names(root, **fields):
    """Return the file names of both domains."""
    sources = open_split(make_config(root, **fields).data, "train")
    return tuple([Path(s.name(i)).name for i in range(len(s))] for s in sources)


@pytest.mark.parametrize("text", [csv_text(), original_text()], ids=["csv", "txt"])
@pytest.mark.parametrize("layout", [".", "img_align_celeba", "img_align_celeba/img_align_celeba"])
def test_formats_and_layouts(unpacked, tmp_path, text, layout):
    """Both formats of the table and all three folders of faces give the oracle's domains."""
    shutil.copytree(unpacked, tmp_path / layout, dirs_exist_ok=True)
    suffix = "csv" if "," in text else "txt"
    (tmp_path / f"list_attr_celeba.{suffix}").write_text(text)
    assert names(tmp_path) == plain()
    assert sum(map(len, plain())) < COUNT  # some belong to neither


@pytest.mark.parametrize(
    ("attribute_a", "attribute_b"),
    [
        ("Black_Hair", "Blond_Hair"),
        ("Blond_Hair", "Black_Hair"),
        ("Eyeglasses", "-Eyeglasses"),
        ("-Bald", "Young"),
        ("-Young", "-Black_Hair"),
    ],
)
def test_attributes_and_their_absence(root, attribute_a, attribute_b):
    """Any attribute or its absence selects a domain; a face of both is in A alone."""
    ours = names(root, attribute_a=attribute_a, attribute_b=attribute_b)
    assert ours == plain(attribute_a, attribute_b)
    assert not set(ours[0]) & set(ours[1])


def test_images_are_read_from_their_own_files(root):
    """Index i is the i-th face of the domain in the table."""
    for source, expected in zip(open_split(make_config(root).data, "train"), plain(), strict=True):
        assert source[3].shape == (22, 18, 3)
        assert source.image_size(3) == (22, 18)
        assert [source[i][0, 0, 0] for i in range(len(source))] == [shade(n) for n in expected]


def test_direction_swaps_the_domains_after_the_split(root):
    """With b_to_a domain A is the blond; faces with both attributes still count as black."""
    assert names(root, direction="b_to_a") == plain()[::-1]
    assert plain()[::-1] != plain("Blond_Hair", "Black_Hair")


@pytest.mark.parametrize(
    "text",
    [
        csv_text(absent="0"),
        csv_text(end="\r\n", space=" "),
        "\ufeff" + original_text(),
        csv_text().replace("image_id", '"image_id"').replace("Bald", '"Bald"'),
        csv_text(end="\n\n"),
        original_text().replace("\n", " \r\n") + "\n\n",
        original_text().replace("-1", " 0"),
        original_text().replace(str(COUNT), "202599", 1),
    ],
    ids=["zeros", "windows", "bom", "quotes", "blank", "spaces", "txt-zeros", "excerpt"],
)
def test_variants_of_the_table(root, text):
    """0 for -1, spaces, quotes, blank lines, line ends and a wrong count."""
    (root / "list_attr_celeba.csv").write_bytes(text.encode())
    assert names(root) == plain()


def test_the_table_is_found(root, tmp_path):
    """`data.attributes` first, then `data.dir`, CSV before text, then two folders above."""
    own = tmp_path / "own.txt"
    own.write_text("1\nBlack_Hair Blond_Hair\n000002.jpg 1 1\n000001.jpg -1 1\n")
    own_domains = ["000002.jpg"], ["000001.jpg"]
    assert names(root, attributes=str(own)) == own_domains
    for place in (root.parent, root):
        shutil.copy(own, place / "list_attr_celeba.txt")
        assert names(root) == plain()
    assert names(root / "img_align_celeba") == plain()
    assert names(faces(root)) == plain()
    (root / "list_attr_celeba.csv").unlink()
    assert names(faces(root)) == own_domains
    (root / "list_attr_celeba.txt").unlink()
    assert names(root) == own_domains


def test_max_images_takes_the_first_of_the_table(root):
    """`data.max_images` limits each domain, in the order of the table."""
    expected = tuple(domain[:4] for domain in plain())
    assert names(root, max_images=4) == expected
    assert expected[0] != sorted(plain()[0])[:4]


def test_missing_faces_are_skipped(root, caplog):
    """Missing files are skipped, with one warning for both domains and all calls."""
    gone = {name for name, _ in ROWS if int(name[:6]) % 3 == 0}
    for name in gone:
        (faces(root) / name).unlink()
    (faces(root) / "stranger.jpg").write_text("in no table")
    existing = {name for name, _ in ROWS} - gone
    with caplog.at_level(logging.WARNING):
        assert names(root) == plain(existing=existing)
        assert names(root, max_images=2) == tuple(d[:2] for d in plain(existing=existing))
    named, found = sum(map(len, plain())), sum(map(len, plain(existing=existing)))
    (record,) = caplog.records
    assert f"skipped: {named - found} of the {named} images" in record.getMessage()


def test_a_complete_dataset_gives_no_warning(root, caplog):
    """Missing faces that belong to neither domain give no warning."""
    for name in {name for name, _ in ROWS}.difference(*plain()):
        (faces(root) / name).unlink()
    assert names(root) == plain()
    assert not caplog.records


def test_nothing_is_moved_or_written(root, tmp_path):
    """The folders are unchanged."""

    def contents():
        return {p: p.read_bytes() if p.is_file() else None for p in tmp_path.rglob("*")}

    before = contents()
    names(root)
    assert contents() == before


def test_there_is_no_test_set(root):
    """Both test sources are None."""
    assert open_split(make_config(root).data, "test") == (None, None)


def test_the_table_is_read_once(root, monkeypatch):
    """The table is read once for all calls, until table, folder or an attribute changes."""
    reads = []
    read_table = celeba._read_table
    monkeypatch.setattr(celeba, "_read_table", lambda table: reads.append(1) or read_table(table))
    for fields in ({}, {"max_images": 3}, {"direction": "b_to_a"}):
        names(root, **fields)
    assert len(reads) == 1
    assert names(root, attribute_a="Young") == plain("Young")
    assert len(reads) == 2
    assert names(root) == plain()
    (faces(root) / plain()[0][0]).unlink()
    assert names(root)[0] == plain()[0][1:]
    (root / "list_attr_celeba.csv").write_text(HEAD + "000002.jpg,1,0\n000004.jpg,0,1\n")
    assert names(root) == (["000002.jpg"], ["000004.jpg"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dir": ""}, "data.dir: expected the folder of CelebA, with img_align_celeba"),
        ({"dir": "{root}/no"}, "data.dir=.*/no: no such folder"),
        ({"dir": "{root}/list_attr_celeba.csv"}, "data.dir=.*csv: no such folder"),
        ({"dir": "{root}/../.."}, "expected list_attr_celeba.csv or list_attr_celeba.txt in"),
        ({"attributes": "{root}/no.csv"}, "data.attributes=.*/no.csv: no such file"),
        ({"attributes": "{root}"}, "data.attributes=.*: no such file"),
        ({"attribute_a": "Blak_Hair"}, "=Blak_Hair: .*csv has no .*; did you mean Black_Hair"),
        ({"attribute_b": "-eyeglasses"}, "=-eyeglasses: .* 'eyeglasses'; .* mean Eyeglasses"),
        ({"attribute_b": "xyz"}, "it has Bald, Black_Hair, Blond_Hair, Eyeglasses, Young"),
        ({"attribute_b": ""}, "data.attribute_b=: .* no attribute ''; it has Bald"),
        ({"attribute_b": "image_id"}, "no attribute 'image_id'"),
        (
            {"attribute_b": "Black_Hair"},
            "attribute_b=Black_Hair: .* has no such images that are not in domain A",
        ),
    ],
)
def test_mistakes_in_the_configuration(root, change, message):
    """Each mistake is one line with the field, the path and what was expected."""
    change = {name: value.format(root=root) for name, value in change.items()}
    with pytest.raises(UserError, match=message) as error:
        open_split(make_config(**{"root": root, **change}).data, "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "table of attributes .*csv: expected CSV"),
        ("40\n", "table of attributes .*csv: expected CSV"),
        ("a.jpg -1 1\n", "table of .*: expected CSV whose first line is image_id"),
        (HEAD + "a.jpg,1,-1\n\nb.jpg,1\n", "csv, line 4: .* 2 values, got 1"),
        (HEAD + "a.jpg,1,-1,1\n", "csv, line 2: .* 2 values, got 3"),
        (HEAD + "a.jpg,1,2\n", "csv, line 2: Blond_Hair: expected 1, -1 or 0, got '2'"),
        (HEAD + "a.jpg,,1\n", "csv, line 2: Black_Hair: .* got ''"),
        ("2\nBlack_Hair Blond_Hair\na.jpg 1 -1\nb.jpg 1\n", "line 4: .* 2 values, got 1"),
        ("1\nBlack_Hair Blond_Hair\na.jpg yes -1\n", "line 3: Black_Hair: .* got 'yes'"),
        ("\xff\xd8", "csv cannot be read"),
        ("x" * 200_000, "csv cannot be read: field larger than"),
        (HEAD, "attribute_a=Black_Hair: .*csv has no such images$"),
        (
            HEAD + "a.jpg,1,0\nb.jpg,1,0\n000001.jpg,0,1\n",
            "a=Black_Hair: .* in .*align_celeba, got none of the 2 of .*csv, such as a.jpg$",
        ),
    ],
)
def test_mistakes_in_the_table(root, text, message):
    """Each mistake is one line with the table, its line and what was expected."""
    (root / "list_attr_celeba.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as error:
        open_split(make_config(root).data, "train")
    assert "\n" not in str(error.value)


def test_serial_pairs_resized_and_flipped_alike(root):
    """An epoch pairs each face of the larger domain with one of the smaller; flips are shared."""
    for number, (name, _) in enumerate(ROWS):  # the left half in a shade, the right half black
        image = np.zeros((22, 18, 3), np.uint8)
        image[:, :9] = 60 + 4 * number
        write_image(faces(root) / name.replace("jpg", "png"), image)
    table = csv_text().replace(".jpg", ".png")
    (root / "list_attr_celeba.csv").write_text(table)
    config = make_config(root, load_size=16, crop_size=16, flip_alike=True, pairing="serial")
    domain_a, domain_b = plain()
    epoch = len(domain_a)
    assert epoch > len(domain_b)
    dataset = build_train_dataset(config.data, 0, 1, open_sources(config.data))
    pairs, flips = [], []
    with dataset.batches(0, 2 * epoch) as batches:
        for batch in batches:
            rows = [batch[domain][0, 8, :, 0] for domain in "ab"]
            flips.append([bool(row[0] < row[-1]) for row in rows])
            shades = [row[-1] if row[0] < row[-1] else row[0] for row in rows]
            pairs.append(tuple(round((int(s) - 60) / 4) for s in shades))
    number = {name: i for i, (name, _) in enumerate(ROWS)}
    partners = [domain_b[k % len(domain_b)] for k in range(epoch)]
    expected = sorted((number[a], number[b]) for a, b in zip(domain_a, partners, strict=True))
    assert sorted(pairs[:epoch]) == sorted(pairs[epoch:]) == expected
    assert all(flip_a == flip_b for flip_a, flip_b in flips)
    assert len(set(map(tuple, flips))) == 2
