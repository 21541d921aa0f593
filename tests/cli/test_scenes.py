"""reconstruct --scenes: many scenes in one run, each in a folder of its own, none of them done twice."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import quantvggt as qv
from clusters import cluster_of
from quantvggt.cli import scenes as many
from quantvggt.cli.main import main
from tiny import sane_model

COUNT = 3
FORMATS = "cameras,npz"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    qv.save(sane_model(), folder)
    return str(folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", COUNT)


def make_photos(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for scene in range(count):
        (folder / f"scene {scene}").mkdir(parents=True)
        for index in range(2):
            pixels = rng.integers(0, 255, (50, 60, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"scene {scene}" / f"{index}.jpg")
    return folder


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The scenes that are made in this process, in order."""
    made: list[str] = []
    one_scene = many._one_scene

    def watched(args: Any, model: Any, scene: many.ToDo) -> dict[str, Any]:
        made.append(Path(scene.target).name)
        return one_scene(args, model, scene)

    monkeypatch.setattr(many, "_one_scene", watched)
    return made


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    assert main(["reconstruct", *words, "--scenes", "--formats", FORMATS, "--json"]) == code
    out = capsys.readouterr().out
    assert out.startswith("{"), out
    result: dict[str, Any] = json.loads(out)
    return result


def cameras(output: Path) -> dict[str, Any]:
    """What was written, without when it was."""
    found = {path.parent.name: json.loads(path.read_text()) for path in output.glob("*/cameras.json")}
    assert all({path.name for path in folder.iterdir()} == {"cameras.json", "scene.npz", "scene.html"}
               for folder in map(output.joinpath, found))  # fmt: skip
    return found


def test_each_folder_is_a_scene_and_is_made_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, photos: Path, done: list[str]
) -> None:
    output = tmp_path / "out"
    names = [f"scene {scene}" for scene in range(COUNT)]
    made = run(capsys, model, str(photos), "-o", str(output))
    assert (done, list(made["scenes"]), made["failed"]) == (names, names, [])
    for name, result in made["scenes"].items():
        assert result["frames"] == 2
        assert result["output"] == str(output / name)
        assert all(Path(file).is_file() and output / name in Path(file).parents for file in result["files"].values())
    first = cameras(output)
    assert sorted(first) == names

    assert run(capsys, model, str(photos), "-o", str(output), "--workers", "2") == made  # of which none has work
    assert done == names
    Image.new("RGB", (60, 50)).save(photos / "scene 1" / "3.jpg")
    again = run(capsys, model, str(photos), "-o", str(output), "--overwrite")
    assert done == [*names, "scene 1"]
    assert again["scenes"]["scene 1"]["frames"] == 3
    assert again["scenes"]["scene 0"] == made["scenes"]["scene 0"]

    assert main(["reconstruct", model, str(photos), "-o", str(output), "--scenes", "--formats", "cameras"]) == 2
    assert "exists already, not from this task" in capsys.readouterr().err


def test_what_is_wrong_with_one_scene_costs_that_scene(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, photos: Path, done: list[str]
) -> None:
    output, bad = tmp_path / "out", photos / "scene 1" / "1.jpg"
    good = bad.read_bytes()
    bad.write_bytes(good[:100])
    made = run(capsys, model, str(photos), "-o", str(output), code=1)
    assert list(made["scenes"]) == ["scene 0", "scene 2"]
    (failed,) = made["failed"]
    assert failed["scene"] == "scene 1"
    assert failed["error"].startswith("InputError: ")
    assert "1.jpg" in failed["error"]
    assert sorted(cameras(output)) == ["scene 0", "scene 2"]
    assert {path.name for path in output.iterdir()} == {"scene 0", "scene 2", many.FINISHED}
    bad.write_bytes(good)
    assert list(run(capsys, model, str(photos), "-o", str(output))["scenes"]) == ["scene 0", "scene 1", "scene 2"]
    assert done == ["scene 0", "scene 1", "scene 2", "scene 1"]


def test_what_a_killed_process_left_is_removed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, photos: Path
) -> None:
    output = tmp_path / "out"
    for name in (".scene 1.abcd_123", ".scene 1.old.abcd_123", ".mine", ".scene 9.abcd_123"):
        (output / name).mkdir(parents=True)
    run(capsys, model, str(photos), "-o", str(output))
    assert {path.name for path in output.glob(".*")} == {many.FINISHED, ".mine", ".scene 9.abcd_123"}


def test_videos_are_scenes_too(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a").mkdir()
    for name in ("a.mp4", "c.MOV", ".hidden.mp4", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "d.mp4").touch()
    (tmp_path / "d.mkv").touch()
    named = {name: path.name for name, path in many.scenes_in(tmp_path).items()}
    assert named == {"a": "a", "a.mp4": "a.mp4", "b": "b", "c": "c.MOV", "d.mkv": "d.mkv", "d.mp4": "d.mp4"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{photos}", "{photos}"], "takes one folder"),
        (["{photos}/scene 0"], "no scenes in"),
        (["{photos}/nothing"], "is no folder"),
        (["{photos}", "--workers", "-1"], "workers is -1"),
        (["{photos}", "--formats", "obj"], "cannot export 'obj'"),
    ],
)
def test_mistakes_are_said_before_any_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, photos: Path, words: list[str], said: str
) -> None:
    words = [word.format(photos=photos) for word in words]
    assert main(["reconstruct", model, *words, "--scenes", "-o", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_node_that_dies_in_the_middle_loses_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    photos = make_photos(tmp_path / "photos", 6)
    expected, output = tmp_path / "here", tmp_path / "there"
    run(capsys, model, str(photos), "-o", str(expected), "--threads", "1")
    with cluster_of({"num_cpus": 1}, {"num_cpus": 1}) as (started, nodes):
        killer = threading.Thread(target=lambda: kill_after_first(output, started, nodes[1]))
        killer.start()
        made = run(capsys, model, str(photos), "-o", str(output), "--ray", started.address)
        killer.join()
    assert len(made["scenes"]) == 6
    assert made["failed"] == []
    ours, theirs = cameras(output), cameras(expected)
    assert ours == theirs
    for name in ours:
        ours_npz, theirs_npz = (np.load(folder / name / "scene.npz") for folder in (output, expected))
        np.testing.assert_array_equal(ours_npz["depth"], theirs_npz["depth"])
    assert {path.name for path in output.glob(".*")} == {many.FINISHED}


def kill_after_first(output: Path, started: Any, node: Any) -> None:
    while not list((output / many.FINISHED).glob("*.json")):
        time.sleep(0.02)
    started.remove_node(node, allow_graceful=False)
