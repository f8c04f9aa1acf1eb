"""CUB-200-2011 as the paper asks it: which of 26 species is this, answered with a letter."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from string import ascii_uppercase

from narrowtune.data.prepare.download import Hash, Refused, Unreachable, download
from narrowtune.data.prepare.parquet import no_network
from narrowtune.data.prepare.release import (
    Dataset,
    Item,
    Progress,
    Rows,
    Source,
    chosen,
    require,
)
from narrowtune.errors import InputError, Problems

ARCHIVE = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
ARCHIVE_HASH = Hash("md5", "97eceeb196236b17998738112f37df78")
ROOT = "CUB_200_2011"
INDEXES = ("images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt")
LAYOUT = f"{ROOT}/{{{','.join(INDEXES)}}} and {ROOT}/images/<class>/<image>.jpg"
QUESTION = "Which species is the bird in this image?"
FORM = "Answer with the option's letter from the given choices directly."


def fetch(to: Path, progress: Progress) -> tuple[Path, str]:
    """The archive, downloaded, verified and unpacked.

    Raises:
        InputError: If it can't be had, or isn't the archive that was published.
    """
    progress("downloading CUB_200_2011.tgz (1.1 GB)", 0, 0)
    try:
        archive = download(ARCHIVE, to / "CUB_200_2011.tgz", wanted=ARCHIVE_HASH)
    except (Unreachable, Refused) as error:
        raise no_network("CUB-200-2011", error) from error
    unpacked = to / "unpacked"
    if not unpacked.is_dir():
        progress("unpacking CUB_200_2011.tgz", 0, 0)
        with tarfile.open(archive) as tar:
            tar.extractall(to / "unpacking", filter="data")
        (to / "unpacking").rename(unpacked)
    return unpacked, ARCHIVE


def open_release(source: Source, seed: int) -> Mapping[str, Rows]:
    """The official split's rows, each with 25 other species drawn by (seed, image).

    Raises:
        InputError: Listing files that are missing, and lists that do not fit each other.
    """
    folder = source.folder / ROOT if (source.folder / ROOT).is_dir() else source.folder
    require(folder, INDEXES, LAYOUT)
    paths, labels, training = (_read(folder / INDEXES[place]) for place in (0, 2, 3))
    classes = {key: _species(name) for key, name in _read(folder / INDEXES[1]).items()}
    _check_fit(folder, paths, labels, training, classes)
    require(folder, [f"images/{path}" for path in paths.values()], LAYOUT)

    def rows(flag: str) -> Rows:
        keys = [key for key in paths if training[key] == flag]

        def items() -> Iterator[Item]:
            for key in keys:
                image = folder / "images" / paths[key]
                yield _item(key, image, classes, labels[key], seed)

        return Rows(len(keys), lambda wanted: chosen(items(), wanted))

    return {"train": rows("1"), "test": rows("0")}


def lettered(key: str, right: str, species: list[str], seed: int) -> tuple[list[str], str]:
    """26 species, the right one among them, in an order that seed and image decide; its letter.

    Args:
        key: The image's number in the release.
        right: Its species.
        species: All of them.
        seed: Another seed draws other distractors.
    """
    rng = Random(f"cub200 {seed} {key}")
    others = [name for name in species if name != right]
    options = [right, *rng.sample(others, len(ascii_uppercase) - 1)]
    rng.shuffle(options)
    return options, ascii_uppercase[options.index(right)]


def _item(key: str, image: Path, classes: Mapping[str, str], label: str, seed: int) -> Item:
    options, letter = lettered(key, classes[label], list(classes.values()), seed)
    pairs = zip(ascii_uppercase, options, strict=True)
    lines = [QUESTION, *(f"{letter}. {name}" for letter, name in pairs), FORM]
    return Item(
        f"cub200-{int(key):05d}", image, "\n".join(lines), (letter,), tuple(ascii_uppercase)
    )


def _read(path: Path) -> dict[str, str]:
    """A list of the release: a number and what it stands for, line by line.

    Raises:
        InputError: Naming the lines that are neither empty nor such a pair.
    """
    found, wrong = {}, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        key, _, value = line.strip().partition(" ")
        if not key.isdigit() or not value:
            wrong += [f"{path}:{number}: wanted a number and a value, found {line!r:.60}"] * bool(
                key
            )
        else:
            found[key] = value.strip()
    if wrong:
        raise InputError(wrong)
    return found


def _species(name: str) -> str:
    """'001.Black_footed_Albatross' as a person would write it."""
    return name.rpartition(".")[2].replace("_", " ")


def _check_fit(
    folder: Path,
    paths: Mapping[str, str],
    labels: Mapping[str, str],
    training: Mapping[str, str],
    classes: Mapping[str, str],
) -> None:
    problems = Problems()
    for name, listed in ((INDEXES[2], labels), (INDEXES[3], training)):
        if listed.keys() != paths.keys():
            problems.add(
                [
                    f"{folder / name} lists {len(listed)} images, {INDEXES[0]} {len(paths)}, and "
                    "not the same ones; download the release again"
                ]
            )
    if unknown := sorted(set(labels.values()) - classes.keys()):
        problems.add([f"{folder / INDEXES[2]} has classes that {INDEXES[1]} lacks: {unknown}"])
    if len(classes) < len(ascii_uppercase):
        problems.add([f"{folder / INDEXES[1]} has {len(classes)} classes; wanted 26 or more"])
    problems.check()


CUB200 = Dataset(
    name="cub200",
    title="CUB-200-2011 (Wah et al. 2011)",
    homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    licence="non-commercial research and education; the images belong to their owners",
    metric="option",
    layout=LAYOUT,
    sizes={"train": 5994, "test": 5794},
    fetch=fetch,
    open=open_release,
)
