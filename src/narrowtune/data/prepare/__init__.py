"""Public data sets made into our files; what `narrowtune data prepare` does. No torch behind it."""

from narrowtune.data.prepare.build import build
from narrowtune.data.prepare.cub200 import CUB200
from narrowtune.data.prepare.drawn import TEST, TRAIN, draw
from narrowtune.data.prepare.manifest import MANIFEST, Manifest, read_manifest
from narrowtune.data.prepare.pathvqa import PATHVQA
from narrowtune.data.prepare.pixmo_count import PIXMO_COUNT
from narrowtune.data.prepare.release import Dataset
from narrowtune.data.prepare.textvqa import TEXTVQA
from narrowtune.data.prepare.timeclock import TIMECLOCK

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset for dataset in (CUB200, PIXMO_COUNT, PATHVQA, TEXTVQA, TIMECLOCK)
}
"""What can be prepared from a public release, by name."""

__all__ = [
    "CUB200",
    "DATASETS",
    "MANIFEST",
    "PATHVQA",
    "PIXMO_COUNT",
    "TEST",
    "TEXTVQA",
    "TIMECLOCK",
    "TRAIN",
    "Dataset",
    "Manifest",
    "build",
    "draw",
    "read_manifest",
]
