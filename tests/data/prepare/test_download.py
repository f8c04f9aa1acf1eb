"""Downloads from a server that hangs up, is busy, has lost files, or sends others."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import releases
from file_host import Host
from releases import contents, lines

from narrowtune.data.prepare import Manifest, cub200, download, pixmo_count, timeclock
from narrowtune.data.prepare.download import Hash, Refused, Unreachable
from narrowtune.errors import InputError

Prepare = Callable[..., Manifest]
BODY = bytes(range(256)) * 4000
SHA256 = Hash("sha256", hashlib.sha256(BODY).hexdigest())


def fetch(host: Host, to: Path, wanted: Hash | None = SHA256) -> Path:
    return download.download(f"{host.address}/file", to, wanted=wanted)


def starts(host: Host) -> list[int]:
    """The first byte that each request asked for."""
    return [int((wanted or "bytes=0-")[len("bytes=") : -1]) for _, wanted in host.asked]


def test_a_broken_download_goes_on_where_it_was(host: Host, tmp_path: Path) -> None:
    host.files["/file"], host.breaks_after["/file"] = BODY, [500_000, 300_000]
    assert fetch(host, tmp_path / "file").read_bytes() == BODY
    first, second = starts(host)[1:]
    assert 500_000 - download.CHUNK_BYTES < first <= 500_000
    assert first + 300_000 - download.CHUNK_BYTES < second <= first + 300_000
    assert not (tmp_path / "file.part").exists()


def test_it_also_goes_on_in_another_call(host: Host, tmp_path: Path) -> None:
    host.files["/file"], host.breaks_after["/file"] = BODY, [200_000] * download.ATTEMPTS
    with pytest.raises(Refused, match="broke off before its end"):
        fetch(host, tmp_path / "file")
    assert not (tmp_path / "file").exists()
    assert fetch(host, tmp_path / "file").read_bytes() == BODY
    first, *later = starts(host)
    assert first == 0 and all(0 < one < other for one, other in pairwise(later))
    assert len(later) == download.ATTEMPTS


def test_a_server_without_ranges_sends_all_of_it_again(host: Host, tmp_path: Path) -> None:
    host.files["/file"], host.breaks_after["/file"], host.ranges = BODY, [500_000], False
    assert fetch(host, tmp_path / "file").read_bytes() == BODY


def test_a_whole_part_needs_no_more_bytes(host: Host, tmp_path: Path) -> None:
    host.files["/file"] = BODY
    releases.write(tmp_path / "file.part", BODY)
    assert fetch(host, tmp_path / "file").read_bytes() == BODY


def test_a_part_longer_than_the_file_is_thrown_away(host: Host, tmp_path: Path) -> None:
    host.files["/file"] = BODY
    releases.write(tmp_path / "file.part", BODY + b"more")
    assert fetch(host, tmp_path / "file").read_bytes() == BODY


def test_a_busy_server_is_asked_again(host: Host, tmp_path: Path) -> None:
    host.files["/file"], host.busy["/file"] = BODY, 2
    fetch(host, tmp_path / "file")
    assert len(host.asked) == 3
    host.busy["/other"] = 100
    with pytest.raises(Refused, match="answers 503"):
        download.download(f"{host.address}/other", tmp_path / "other")


def test_what_is_gone_is_not_asked_for_again(host: Host, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="answers 404"):
        fetch(host, tmp_path / "file")
    assert len(host.asked) == 1


def test_another_file_is_refused_and_not_kept(host: Host, tmp_path: Path) -> None:
    host.files["/file"] = BODY[:-1]
    with pytest.raises(Refused, match="another file than was published: its sha256 is"):
        fetch(host, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_fetched(host: Host, tmp_path: Path) -> None:
    releases.write(tmp_path / "file", BODY)
    fetch(host, tmp_path / "file")
    assert host.asked == []
    host.files["/file"] = BODY
    releases.write(tmp_path / "file", b"damaged")
    assert fetch(host, tmp_path / "file").read_bytes() == BODY


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/file", "http://nowhere.invalid/file"])
def test_nobody_answers(url: str, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"cannot be reached \(Failed to "):
        download.download(url, tmp_path / "file")


def test_no_address_at_all(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be fetched"):
        download.download("no address", tmp_path / "file")


# -- whole data sets ---------------------------------------------------------------------------


def test_dead_links_and_other_images_are_listed_not_replaced(
    host: Host, tmp_path: Path, prepare: Prepare
) -> None:
    host.files = releases.pixmo_count(tmp_path / "release", host.address)
    del host.files["/2.jpg"]
    host.files["/4.jpg"] = releases.jpeg(999)
    made = prepare("pixmo-count", tmp_path / "release")
    assert (made.rows, made.left_out) == ({"test": 3, "train": 4}, {"test": 0, "train": 2})
    dead, other = lines(tmp_path / "out/left-out.jsonl")
    assert dead["id"] == "pixmo-count-train-00002" and "answers 404" in dead["reason"]
    assert other["id"] == "pixmo-count-train-00004" and "another file" in other["reason"]
    ids = [row["id"][-1] for row in lines(tmp_path / "out/train.jsonl")]
    assert ids == ["0", "1", "3", "5"]


def test_images_that_were_fetched_are_not_fetched_again(
    host: Host, tmp_path: Path, prepare: Prepare
) -> None:
    served = releases.pixmo_count(tmp_path / "release", host.address)
    host.files = {path: data for path, data in served.items() if len(path) == len("/100.jpg")}
    with pytest.raises(InputError, match="the train split holds no row that can be used") as told:
        prepare("pixmo-count", tmp_path / "release")
    assert len(told.value.problems) == 7
    assert json.loads((tmp_path / "out/manifest.json").read_text())["complete"] is False
    host.files, host.asked = served, []
    prepare("pixmo-count", tmp_path / "release")
    assert sorted(path for path, _ in host.asked) == [f"/{number}.jpg" for number in range(6)]
    prepare("pixmo-count", tmp_path / "release", "straight")
    one, other = (contents(tmp_path / out) for out in ("out", "straight"))
    assert one == other, "resumed is the same as uninterrupted"


def test_no_network_is_told_once_and_not_as_dead_links(tmp_path: Path, prepare: Prepare) -> None:
    releases.pixmo_count(tmp_path / "release", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"cannot fetch the images of PixMo-Count.*--from") as told:
        prepare("pixmo-count", tmp_path / "release")
    assert len(told.value.problems) == 1


def test_a_network_that_goes_away_does_not_end_in_a_complete_folder(
    host: Host, tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixmo_count, "FIRST_BLOCK", 2)
    monkeypatch.setattr(pixmo_count, "BLOCK", 2)
    host.files = releases.pixmo_count(tmp_path / "release", host.address)
    fetch, fetched = pixmo_count.download, []

    def until_it_breaks(url: str, to: Path, *, wanted: Hash) -> Path:
        fetched.append(url)
        return fetch("http://127.0.0.1:9/" if len(fetched) > 5 else url, to, wanted=wanted)

    monkeypatch.setattr(pixmo_count, "download", until_it_breaks)
    with pytest.raises(InputError, match="cannot fetch the images of PixMo-Count"):
        prepare("pixmo-count", tmp_path / "release")
    monkeypatch.setattr(pixmo_count, "download", fetch)
    assert prepare("pixmo-count", tmp_path / "release").rows == {"test": 3, "train": 6}


def test_the_birds_archive_is_verified_and_unpacked(
    host: Host, tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases.cub200(tmp_path / "release")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(tmp_path / "release/CUB_200_2011", "CUB_200_2011")
    host.files["/birds.tgz"] = packed.getvalue()
    monkeypatch.setattr(cub200, "ARCHIVE", f"{host.address}/birds.tgz")
    with pytest.raises(InputError, match=r"cannot fetch CUB-200-2011: .* its md5 is"):
        prepare("cub200", None)
    md5 = hashlib.md5(packed.getvalue()).hexdigest()
    monkeypatch.setattr(cub200, "ARCHIVE_HASH", Hash("md5", md5))
    fetched = prepare("cub200", None)
    given = prepare("cub200", tmp_path / "release", "given")
    assert (fetched.origin, given.origin) == (f"{host.address}/birds.tgz", "a local folder")
    assert fetched.files == given.files


def test_the_clocks_archive_is_unpacked(
    host: Host, tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = releases.timeclock(tmp_path / "release")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipped:
        for path in sorted(release.rglob("*.*")):
            zipped.write(path, path.relative_to(release))
    host.files["/time.zip"] = packed.getvalue()[:-100]
    monkeypatch.setattr(timeclock, "ARCHIVE", f"{host.address}/time.zip")
    with pytest.raises(InputError, match="sent no whole archive"):
        prepare("timeclock", None)
    host.files["/time.zip"] = packed.getvalue()
    assert prepare("timeclock", None).files == prepare("timeclock", release, "given").files
