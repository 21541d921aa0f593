"""A calibration set's file opens exactly the clips that were written, or says what is in the way."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.scenes.calibration import calibration_clips
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.corruption import KINDS, corrupt, synthetic_pool
from quantvggt.scenes.labels import label_of
from quantvggt.scenes.recorded import open_set, save_set
from videos import write_video


def write_photos(folder: Path, count: int, seed: int = 0) -> None:
    """Noise of mixed shapes, so that clips are padded."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        height = 40 if index % 3 else 60
        Image.fromarray(rng.integers(0, 255, (height, 50, 3), np.uint8)).save(folder / f"{index}.jpg")


def save(path: Path, clips: list[Clip]) -> None:
    save_set(path, clips, {"model": "tiny"}, [{"index": index} for index in range(len(clips))])


def assert_same(clips: list[Clip], opened: list[Clip]) -> None:
    assert len(clips) == len(opened)
    for clip, other in zip(clips, opened, strict=True):
        assert torch.equal(clip.images, other.images)
        assert clip.names == other.names
        assert (clip.truth is None) == (other.truth is None)
        assert clip.record() == other.record()
        assert label_of(clip) == label_of(other)
        if clip.truth is not None and other.truth is not None:
            assert torch.equal(clip.truth.extrinsics, other.truth.extrinsics)
            assert torch.equal(clip.truth.depth, other.truth.depth)


def test_synthetic_clips_sound_and_broken(tmp_path: Path) -> None:
    pool = synthetic_pool(10, frames=3, broken=0.8, seed=2, size=(28, 42))
    save(tmp_path / "set.json", pool)
    assert_same(pool, calibration_clips(tmp_path / "set.json", clips=1))


@pytest.mark.filterwarnings("ignore:.*differ in shape")
def test_photos_fitted_otherwise(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 6)
    for mode in ("longest", "area"):
        clips = calibration_clips(tmp_path / "photos", clips=2, frames=3, size=56, mode=mode)
        save(tmp_path / f"{mode}.json", clips)
        assert_same(clips, calibration_clips(tmp_path / f"{mode}.json"))


@pytest.mark.filterwarnings("ignore:the images differ in shape")
def test_photos_and_videos_sound_and_broken(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos" / "table", 9)
    write_photos(tmp_path / "photos" / "chair", 3, seed=1)
    write_video(tmp_path / "film.mp4", 20, lamp=True)
    photos = calibration_clips(tmp_path / "photos" / "table", clips=3, frames=3, size=56)
    film = calibration_clips(tmp_path / "film.mp4", clips=2, frames=3, size=56)
    clips = [*photos, *film]
    for kind in KINDS[1:]:
        clips += [corrupt(photos[0], kind, seed=4), corrupt(film[1], kind, seed=4)]
    clips.append(corrupt(photos[0], "unrelated", others=photos[1:]))
    clips.append(corrupt(film[0], "unrelated", others=[film[1], film[1]]))
    clips += calibration_clips(tmp_path / "photos", clips=2, frames=3, size=56)
    save(tmp_path / "set.json", clips)
    assert_same(clips, open_set(tmp_path / "set.json"))


@pytest.mark.filterwarnings("ignore:the images differ in shape")
def test_paths_follow_the_file_and_stay_out_of_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path / "work" / "photos", 2)
    monkeypatch.chdir(tmp_path / "work")
    (clip,) = calibration_clips("photos", clips=1, frames=2, size=56)
    (tmp_path / "work" / "sets").mkdir()
    save(Path("sets/set.json"), [clip])
    text = (tmp_path / "work" / "sets" / "set.json").read_text()
    assert str(tmp_path) not in text
    assert "../photos/0.jpg" in text
    monkeypatch.chdir(tmp_path)
    shutil.move("work", "moved")
    (opened,) = open_set("moved/sets/set.json")
    assert torch.equal(opened.images, clip.images)
    assert "moved" not in json.dumps(opened.record())
    others = [opened]
    assert "moved" not in json.dumps(corrupt(opened, "unrelated", others=others).record())


@pytest.mark.filterwarnings("ignore:the images differ in shape")
def test_a_folder_of_categories_is_labelled_by_them(tmp_path: Path) -> None:
    for scene in ("chair/1", "chair/2", "table/1"):
        write_photos(tmp_path / scene, 2)
    write_video(tmp_path / "table" / "2.mp4", 5, lamp=True)
    clips = calibration_clips(tmp_path, clips=9, frames=2, size=28)
    assert [label_of(clip) for clip in clips] == ["chair", "chair", "table", "table"]
    assert label_of(Clip(torch.zeros(1, 3, 14, 14), ["a"])) == "unlabelled"


def test_missing_and_changed_files(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 2)
    write_video(tmp_path / "film.mp4", 8, lamp=True)
    save(tmp_path / "photos.json", calibration_clips(tmp_path / "photos", clips=1, frames=2, size=28))
    save(tmp_path / "film.json", calibration_clips(tmp_path / "film.mp4", clips=1, frames=2, size=28))
    write_photos(tmp_path / "photos", 2, seed=1)
    with pytest.raises(InputError, match=r"photos\.json: .*0\.jpg has changed since the set was chosen"):
        open_set(tmp_path / "photos.json")
    os.remove(tmp_path / "photos" / "0.jpg")
    with pytest.raises(InputError, match=r"0\.jpg is missing"):
        open_set(tmp_path / "photos.json")
    write_video(tmp_path / "film.mp4", 9, lamp=True)
    with pytest.raises(InputError, match=r"film\.mp4 has changed"):
        open_set(tmp_path / "film.json")


def test_only_what_can_be_opened_again_is_written(tmp_path: Path) -> None:
    tensors = calibration_clips([torch.rand(2, 3, 28, 28)])
    with pytest.raises(InputError, match="a clip of kind 'tensor' can't be written"):
        save(tmp_path / "set.json", tensors)
    assert not (tmp_path / "set.json").exists()


def write_synthetic(path: Path) -> dict[str, Any]:
    save(path, synthetic_pool(1, 1, 0, size=14))
    values: dict[str, Any] = json.loads(path.read_text())
    return values


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "other", "its format is 'other'"),
        ("format_version", 2, "format version is 2, known is 1"),
        ("clips", [{}], "KeyError"),
        ("clips", 3, "TypeError"),
        ("clips", [{"names": [], "size": [14, 14], "source": {"kind": "painted"}}], "no calibration set"),
    ],
)
def test_a_file_that_is_no_set(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = tmp_path / "set.json"
    values = write_synthetic(path)
    path.write_text(json.dumps({**values, key: value}))
    with pytest.raises(InputError, match=message):
        calibration_clips(path)


def test_no_json_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "set.json").write_text("{")
    with pytest.raises(InputError, match="no calibration set"):
        calibration_clips(tmp_path / "set.json")
    with pytest.raises(InputError, match=r"cannot read calibration set .*gone\.json"):
        calibration_clips(tmp_path / "gone.json")
    values = write_synthetic(tmp_path / "set.json")
    values["clips"][0]["source"]["seed"] = -1
    (tmp_path / "set.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="needs a seed of 0 or more"):
        calibration_clips(tmp_path / "set.json")


def test_a_set_is_read_whole_whatever_number_of_clips_is_asked_for(tmp_path: Path) -> None:
    pool = [replace(clip) for clip in synthetic_pool(3, 1, 0, size=14)]
    save(tmp_path / "set.json", pool)
    assert len(calibration_clips(tmp_path / "set.json", clips=1, frames=7)) == 3


def test_names_in_any_bytes(tmp_path: Path) -> None:
    for index, name in enumerate((b"caf\xe9.jpg", b"two\nlines.jpg")):
        noise = np.random.default_rng(index).integers(0, 255, (28, 56, 3), np.uint8)
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            Image.fromarray(noise).save(file, "JPEG")
    clips = calibration_clips(tmp_path, clips=1, frames=2, size=56)
    save(tmp_path / "set.json", clips)
    (tmp_path / "set.json").read_text(encoding="utf-8")
    assert_same(clips, open_set(tmp_path / "set.json"))
    assert clips[0].names == ["caf_.jpg", "two_lines.jpg"]
