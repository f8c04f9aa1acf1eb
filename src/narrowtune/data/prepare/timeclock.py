"""Drawn analog clocks at every fifth minute: what time is it?

The paper's TimeClock. Its test images are public as `AvaXiao/clockreading-time`: 224 pixels wide,
144 times, numbered from 11520. That is how Kaggle's `time-image-datasetclassification` goes on
after its 144 x 80 training images, so we take that release for TimeClock; the paper does not say.
"""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from narrowtune.data.prepare.download import Refused, Unreachable, download
from narrowtune.data.prepare.parquet import no_network
from narrowtune.data.prepare.release import (
    Dataset,
    Item,
    LeftOut,
    Progress,
    Rows,
    Source,
    chosen,
    require,
)
from narrowtune.errors import InputError

SLUG = "gpiosenka/time-image-datasetclassification"
ARCHIVE = f"https://www.kaggle.com/api/v1/datasets/download/{SLUG}"
INDEX = "clocks.csv"
COLUMNS = ("filepaths", "labels", "data set")
LAYOUT = f"{INDEX} ({', '.join(COLUMNS)}) and {{train,test,valid}}/<hour>-<minute>/<image>.jpg"
QUESTION = "What time does the clock show in this image?"
FORM = "Answer with the time as HH:MM."
_LABEL = re.compile(r"(\d{1,2})[-_:](\d{2})")


def fetch(to: Path, progress: Progress) -> tuple[Path, str]:
    """Kaggle's archive, downloaded and unpacked; its parts carry checksums of their own.

    Raises:
        InputError: If it can't be had, or is damaged.
    """
    progress("downloading TIME (0.4 GB)", 0, 0)
    archive, unpacked = to / "time.zip", to / "unpacked"
    if unpacked.is_dir():
        return unpacked, ARCHIVE
    try:
        download(ARCHIVE, archive)
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(to / "unpacking")
    except (Unreachable, Refused) as error:
        raise no_network("TIME from Kaggle", error) from error
    except zipfile.BadZipFile as error:
        archive.unlink()
        raise InputError(f"{ARCHIVE} sent no whole archive: {error}; try again") from error
    (to / "unpacking").rename(unpacked)
    return unpacked, ARCHIVE


def open_release(source: Source, seed: int) -> Mapping[str, Rows]:
    """The rows of `clocks.csv` that are marked train and test; those marked valid are not used.

    Raises:
        InputError: Naming columns and files that are missing.
    """
    folder = source.folder
    require(folder, [INDEX], LAYOUT)
    listed = _listed(folder / INDEX)
    splits = {
        split: [row for row in listed if row["data set"] == split] for split in ("train", "test")
    }
    files = [row["filepaths"] for rows in splits.values() for row in rows]
    require(folder, files, LAYOUT)
    return {split: _rows(folder, split, rows) for split, rows in splits.items()}


def _listed(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        lost = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if lost:
            raise InputError(f"{path} has no column {', '.join(lost)}; wanted {', '.join(COLUMNS)}")
        # The archive was made on Windows; a path may be written its way.
        return [
            {name: (row[name] or "").strip().replace("\\", "/") for name in COLUMNS}
            for row in reader
        ]


def _rows(folder: Path, split: str, listed: list[dict[str, str]]) -> Rows:
    def items() -> Iterator[Item | LeftOut]:
        for place, row in enumerate(listed):
            key, time = f"timeclock-{split}-{place:05d}", _time(row["labels"])
            if time is None:
                yield LeftOut(key, f"its label {row['labels']!r} is no time")
            else:
                yield Item(key, folder / row["filepaths"], f"{QUESTION}\n{FORM}", (time,))

    return Rows(len(listed), lambda wanted: chosen(items(), wanted))


def _time(label: str) -> str | None:
    """'1-05' as '01:05'; None for what is on no clock."""
    match = _LABEL.fullmatch(label)
    if match is None or not (1 <= int(match[1]) <= 12 and int(match[2]) < 60):
        return None
    return f"{int(match[1]):02d}:{match[2]}"


TIMECLOCK = Dataset(
    name="timeclock",
    title="TIME (Piosenka 2022), for the paper's TimeClock",
    homepage=f"https://www.kaggle.com/datasets/{SLUG}",
    licence="CC0 1.0",
    metric="clock",
    layout=LAYOUT,
    sizes={"train": 11520, "test": 1440},
    fetch=fetch,
    open=open_release,
)
