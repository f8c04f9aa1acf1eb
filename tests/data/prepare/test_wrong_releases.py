"""A release that is not whole, an output folder in use: one message that says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import releases
from releases import contents

from narrowtune.data.prepare import Manifest
from narrowtune.errors import InputError

Prepare = Callable[..., Manifest]


def test_all_missing_files_are_told_at_once(tmp_path: Path, prepare: Prepare) -> None:
    root = releases.cub200(tmp_path / "release") / "CUB_200_2011"
    (root / "classes.txt").unlink()
    (root / "train_test_split.txt").unlink()
    with pytest.raises(
        InputError, match=r"lacks classes.txt, train_test_split.txt; .* laid out as"
    ):
        prepare("cub200", tmp_path / "release")


def test_missing_images_are_counted(tmp_path: Path, prepare: Prepare) -> None:
    root = releases.cub200(tmp_path / "release") / "CUB_200_2011"
    for image in list(root.glob("images/*/*.jpg"))[:12]:
        image.unlink()
    with pytest.raises(InputError, match=r"lacks images/.* and 2 more; the release is laid out as"):
        prepare("cub200", tmp_path / "release")


def test_lists_that_do_not_fit_each_other(tmp_path: Path, prepare: Prepare) -> None:
    root = releases.cub200(tmp_path / "release") / "CUB_200_2011"
    labels = root / "image_class_labels.txt"
    labels.write_text("".join(labels.read_text().splitlines(keepends=True)[:-1]))
    split = root / "train_test_split.txt"
    split.write_text(split.read_text() + "61 0\n")
    with pytest.raises(InputError) as told:
        prepare("cub200", tmp_path / "release")
    assert [problem.partition(" lists ")[2] for problem in told.value.problems] == [
        f"{count} images, images.txt 60, and not the same ones; download the release again"
        for count in (59, 61)
    ]


def test_too_few_species_for_26_letters(tmp_path: Path, prepare: Prepare) -> None:
    with pytest.raises(InputError, match="has 9 classes; wanted 26 or more"):
        prepare("cub200", releases.cub200(tmp_path / "release", classes=9))


def test_a_lost_shard_is_named(tmp_path: Path, prepare: Prepare) -> None:
    release = releases.pathvqa(tmp_path / "release")
    (release / "data/train-00001-of-00002.parquet").unlink()
    with pytest.raises(InputError, match=r"lacks data/train-00001-of-00002.parquet; download"):
        prepare("pathvqa", release)


def test_a_truncated_shard_and_a_lost_column(tmp_path: Path, prepare: Prepare) -> None:
    release = releases.pathvqa(tmp_path / "release")
    shard = release / "data/train-00000-of-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-200])
    releases.shard(release, "train", [{"image": 1, "query": "x"}], "00001-of-00002")
    with pytest.raises(InputError) as told:
        prepare("pathvqa", release)
    broken, lost = told.value.problems
    assert f"{shard} is no whole parquet file" in broken
    assert "has no column 'question', 'answer'; it has image, query" in lost


@pytest.mark.parametrize("name", ["cub200", "pathvqa", "textvqa", "timeclock", "pixmo-count"])
def test_another_folder_is_told_what_is_wanted(name: str, tmp_path: Path, prepare: Prepare) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"lacks .*; the release is laid out as"):
        prepare(name, tmp_path / "empty")
    with pytest.raises(InputError, match=r"no folder .*nowhere; wanted the release as"):
        prepare(name, tmp_path / "nowhere")


def test_a_json_file_of_something_else(tmp_path: Path, prepare: Prepare) -> None:
    release = releases.textvqa_json(tmp_path / "release")
    (release / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": [{"image": "x"}]}))
    with pytest.raises(InputError, match=r"TextVQA_0.5.1_val.json is no TextVQA file: KeyError"):
        prepare("textvqa", release)


def test_an_output_folder_with_other_things(tmp_path: Path, prepare: Prepare) -> None:
    releases.write(tmp_path / "out/thesis.txt", "mine")
    with pytest.raises(InputError, match="is not empty, and nothing was prepared there"):
        prepare("timeclock", releases.timeclock(tmp_path / "release"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_an_output_folder_made_otherwise(tmp_path: Path, prepare: Prepare) -> None:
    release = releases.timeclock(tmp_path / "release")
    prepare("timeclock", release)
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match=r"prepared with seed 0 \(now 1\); limit None \(now 2\)"):
        prepare("timeclock", release, seed=1, limit=2)
    with pytest.raises(InputError, match="holds timeclock; give a new --out for cub200"):
        prepare("cub200", releases.cub200(tmp_path / "birds"))
    assert contents(tmp_path / "out") == before


def test_what_is_complete_is_left_alone_and_what_is_damaged_is_mended(
    tmp_path: Path, prepare: Prepare
) -> None:
    release = releases.timeclock(tmp_path / "release")
    prepare("timeclock", release)
    before = contents(tmp_path / "out")
    written = (tmp_path / "out/train.jsonl").stat().st_mtime_ns
    prepare("timeclock", None)  # nothing is read again, so no release is needed
    assert (tmp_path / "out/train.jsonl").stat().st_mtime_ns == written
    (tmp_path / "out/test.jsonl").write_text("")
    next((tmp_path / "out/images").rglob("*.jpg")).unlink()
    prepare("timeclock", release)
    assert contents(tmp_path / "out") == before


def overwritten(image: Path) -> bytes:
    """As many other bytes."""
    return bytes(byte ^ 1 for byte in image.read_bytes())


def truncated(image: Path) -> bytes:
    return image.read_bytes()[:-40]


def another(image: Path) -> bytes:
    """A sound image, but not the one that was written."""
    return next(one for one in image.parents[1].rglob("*.jpg") if one != image).read_bytes()


@pytest.mark.parametrize("harm", [overwritten, truncated, another, None])
def test_an_image_that_changed_or_went_missing_is_made_anew(
    tmp_path: Path, prepare: Prepare, harm: Callable[[Path], bytes] | None
) -> None:
    release = releases.timeclock(tmp_path / "release")
    prepare("timeclock", release)
    before = contents(tmp_path / "out")
    image = min((tmp_path / "out/images").rglob("*.jpg"))
    if harm is None:
        image.unlink()
    else:
        image.write_bytes(harm(image))
        assert contents(tmp_path / "out") != before
    prepare("timeclock", release)
    assert contents(tmp_path / "out") == before


def test_a_folder_made_before_images_were_hashed_stays_complete(
    tmp_path: Path, prepare: Prepare
) -> None:
    release = releases.timeclock(tmp_path / "release")
    prepare("timeclock", release)
    manifest = tmp_path / "out/manifest.json"
    facts = json.loads(manifest.read_text())
    assert {*facts.pop("images")} == {"train.jsonl", "test.jsonl"}
    manifest.write_text(json.dumps(facts))
    assert prepare("timeclock", None).complete  # nothing is read again
    min((tmp_path / "out/images").rglob("*.jpg")).unlink()
    assert prepare("timeclock", release).images  # and what is gone is still missed


def test_without_a_network_the_way_out_is_told(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match=r"cannot fetch data set .*path-vqa.*give its folder with --from"
    ):
        prepare("pathvqa", None)
    # And then that way is open: the same output folder, the folder given.
    prepare("pathvqa", releases.pathvqa(tmp_path / "release"))


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = releases.pathvqa(tmp_path / "release")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"pip install 'narrowtune\[prepare\]'"):
        prepare("pathvqa", release)
