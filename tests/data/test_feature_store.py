"""A store gives back what it was given, bit by bit, or nothing."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from torch import Tensor

from narrowtune.data.feature_store import GIB, Entry, FeatureFolder, FeatureStore

KEY = "model/entry"


def drawn(seed: int = 0) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {
        "float": torch.randn(3, 5, generator=made),
        "half": torch.randn(7, generator=made).bfloat16(),
        "grid": torch.tensor([[1, 4, 6]]),
        "mask": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
        "sliced": torch.randn(4, 6, generator=made)[:, ::2],
    }


ENTRY = Entry(drawn())


def same(found: Entry | None, tensors: dict[str, Tensor]) -> bool:
    assert found is not None
    kept = found.tensors
    return list(kept) == list(tensors) and all(
        kept[name].dtype == one.dtype and torch.equal(kept[name], one)
        for name, one in tensors.items()
    )


def file_of(folder: Path) -> Path:
    (file,) = folder.rglob("*.features")
    return file


def test_memory_gives_back_what_it_was_given_up_to_its_limit() -> None:
    one = {"a": torch.ones(256)}
    store = FeatureStore(limit=2 * 1024)
    assert store.get(KEY) is None and store.takes(KEY)
    for number in range(3):
        store.keep(f"m/{number}", one, f"told {number}")
    assert same(store.get("m/1"), one) and store.get("m/1").told == "told 1"
    assert store.get("m/2") is None  # there was no room
    assert store.takes("m/0") and not store.takes("m/2") and not store.takes("m/3")


def test_a_folder_outlives_its_process(tmp_path: Path) -> None:
    FeatureStore(GIB, FeatureFolder(tmp_path, GIB)).keep(KEY, drawn(), "how")
    store = FeatureStore(GIB, FeatureFolder(tmp_path, GIB))
    for _ in range(2):  # from the file, then from memory
        found = store.get(KEY)
        assert found is not None and found.told == "how" and same(found, drawn())


def test_beyond_memory_the_folder_answers(tmp_path: Path) -> None:
    store = FeatureStore(limit=0, folder=FeatureFolder(tmp_path, GIB))
    for number in range(3):
        store.keep(f"m/{number}", drawn(number), "")
    assert store.takes("m/9")
    assert all(same(store.get(f"m/{number}"), drawn(number)) for number in range(3))


def test_writing_to_what_was_read_changes_no_file(tmp_path: Path) -> None:
    folder = FeatureFolder(tmp_path, GIB)
    folder.put(KEY, ENTRY)
    folder.get(KEY).tensors["float"].zero_()
    assert same(folder.get(KEY), drawn())


@pytest.mark.parametrize("part", [0.0, 0.1, 0.3, 0.5, 0.8, 0.999])
def test_a_flipped_bit_anywhere_is_found_and_mended(tmp_path: Path, part: float) -> None:
    told: list[str] = []
    folder = FeatureFolder(tmp_path, GIB, told.append)
    folder.put(KEY, ENTRY)
    file = file_of(tmp_path)
    data = bytearray(file.read_bytes())
    data[int(part * len(data))] ^= 16
    file.write_bytes(data)
    assert folder.get(KEY) is None and not file.exists()
    assert len(told) == 1 and "damaged" in told[0]
    folder.put(KEY, ENTRY)
    assert same(folder.get(KEY), drawn())


@pytest.mark.parametrize("part", [0.0, 0.01, 0.2, 0.99])
def test_half_a_file_is_not_read(tmp_path: Path, part: float) -> None:
    folder = FeatureFolder(tmp_path, GIB)
    folder.put(KEY, ENTRY)
    file = file_of(tmp_path)
    file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])
    assert folder.get(KEY) is None and not file.exists()


def test_another_entry_s_file_under_its_name_is_not_read(tmp_path: Path) -> None:
    folder = FeatureFolder(tmp_path, GIB)
    folder.put("model/other", ENTRY)
    file_of(tmp_path).rename(tmp_path / f"{KEY}.features")
    assert folder.get(KEY) is None


def test_a_folder_that_reached_its_limit_says_so_once_and_is_still_read(tmp_path: Path) -> None:
    told: list[str] = []
    FeatureFolder(tmp_path, GIB).put("m/0", ENTRY)
    size = file_of(tmp_path).stat().st_size
    folder = FeatureFolder(tmp_path, int(2.5 * size), told.append)
    for number in range(1, 5):
        folder.put(f"m/{number}", ENTRY)
    written = [file.stat().st_size for file in tmp_path.rglob("*.*")]
    assert sum(written) <= 2.5 * size and len(written) == 2
    assert folder.closed and len(told) == 1 and "--feature-cache-gib" in told[0]
    assert same(folder.get("m/0"), drawn()) and folder.get("m/2") is None
    store = FeatureStore(0, folder)
    assert store.takes("m/2")  # memory does not know yet that it is full
    store.keep("m/2", drawn(), "")
    assert store.takes("m/0") and not store.takes("m/2")


def test_a_disk_that_is_full_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    folder, whole = FeatureFolder(tmp_path, GIB, told.append), Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        whole(path, data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    folder.put(KEY, ENTRY)
    assert folder.closed and len(told) == 1 and "No space left" in told[0]
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
    assert folder.get(KEY) is None


def test_what_is_no_folder_is_told_and_memory_goes_on(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "taken").write_text("a file")
    store = FeatureStore(GIB, FeatureFolder(tmp_path / "taken", GIB, told.append))
    store.keep(KEY, drawn(), "")
    assert same(store.get(KEY), drawn())
    assert len(told) == 1 and "can't be written" in told[0] and "memory" in told[0]
    assert (tmp_path / "taken").read_text() == "a file"


def test_another_model_s_features_are_told_of(tmp_path: Path) -> None:
    told: list[str] = []
    folder = FeatureFolder(tmp_path, GIB, told.append)
    folder.meet("model")
    assert not told  # an empty folder
    folder.put(KEY, ENTRY)
    folder.meet("model")
    assert not told
    folder.meet("another")
    folder.meet("another")
    assert len(told) == 1 and "another model" in told[0] and "model" in told[0]
