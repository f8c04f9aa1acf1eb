"""PixMo-Count: how many of something are in a web image that is downloaded from its own host.

The release lists addresses and hashes. Some links are dead by now and some hosts send other bytes
than they did; such rows are left out and listed, never replaced.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from narrowtune.data.prepare.download import Hash, Refused, Unreachable, download
from narrowtune.data.prepare.parquet import Table, hub, no_network, shards
from narrowtune.data.prepare.release import Dataset, Item, LeftOut, Rows, Source
from narrowtune.errors import InputError

REPOSITORY = "allenai/pixmo-count"
COLUMNS = ("image_url", "image_sha256", "count", "label")
LAYOUT = (
    "data/{train,test}-00000-of-0000N.parquet with the columns "
    f"{', '.join(COLUMNS)}; images that are there already as images/<image_sha256>.jpg"
)
FORM = "Answer with a number."
WORKERS = 16
# Where not one of so many addresses can be reached, it is the network and not the links.
FIRST_BLOCK, BLOCK = 16, 256


def open_release(source: Source, seed: int) -> Mapping[str, Rows]:
    """The release's training and test split; its validation split is not used.

    Raises:
        InputError: Naming shards or columns that are missing.
    """
    return {split: _rows(source, split) for split in ("train", "test")}


def _rows(source: Source, split: str) -> Rows:
    table = Table(shards(source.folder, split, LAYOUT), COLUMNS)

    def read(wanted: Collection[int]) -> Iterator[Item | LeftOut]:
        rows = [(place, row) for place, row in enumerate(table) if place in wanted]
        addresses = {row["image_sha256"]: row["image_url"] for _, row in rows}
        images = _images(source, split, addresses)
        for place, row in rows:
            image = images[row["image_sha256"]]
            key = f"pixmo-count-{split}-{place:05d}"
            label = (row["label"] or "").strip()
            if not isinstance(image, Path):
                yield LeftOut(key, str(image))
            elif not label or row["count"] is None:
                yield LeftOut(key, "it has no label or no count")
            else:
                prompt = f"How many {label} are in this image?\n{FORM}"
                yield Item(key, image, prompt, (str(row["count"]),))

    return Rows(table.count, read)


def _images(
    source: Source, split: str, addresses: Mapping[str, str]
) -> dict[str, Path | InputError]:
    """Each image's file by its hash, or why there is none.

    Raises:
        InputError: If the network is gone: not one address of a block can be reached.
    """
    hashes, found = list(addresses), dict[str, Path | InputError]()
    get = partial(_image, source, addresses)
    with ThreadPoolExecutor(WORKERS) as pool:
        for start in (0, *range(FIRST_BLOCK, len(hashes), BLOCK)):
            block = hashes[start : start + BLOCK if start else FIRST_BLOCK]
            images = list(pool.map(get, block))
            lost = [image for image in images if isinstance(image, Unreachable)]
            if lost and len(lost) == len(images):
                raise no_network("the images of PixMo-Count", lost[0])
            found.update(zip(block, images, strict=True))
            source.progress(f"images of {split}", len(found), len(hashes))
    return found


def _image(source: Source, addresses: Mapping[str, str], value: str) -> Path | InputError:
    """One image: from the release's folder if somebody put it there, else from its host."""
    wanted = Hash("sha256", value)
    for path in sorted((source.folder / "images").glob(f"{value}.*")):
        return path if wanted.fits(path) else Refused(f"{path} hashes to something else")
    try:
        return download(addresses[value], source.scratch / "images" / value, wanted=wanted)
    except (Unreachable, Refused) as error:
        return error


PIXMO_COUNT = Dataset(
    name="pixmo-count",
    title="PixMo-Count (Deitke et al. 2024)",
    homepage=f"https://huggingface.co/datasets/{REPOSITORY}",
    licence="ODC-BY 1.0; the images belong to their owners",
    metric="number",
    layout=LAYOUT,
    sizes={"train": 36916, "test": 540},
    fetch=hub(REPOSITORY, ["data/train-*.parquet", "data/test-*.parquet"]),
    open=open_release,
)
