"""The caller's mistakes: exit code 2, one line on stderr that names the culprit and the remedy, nothing written."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import quantvggt as qv
from quantvggt.cli.main import main
from tiny import sane_model, tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    qv.save(tiny_model(), folder)
    return str(folder)


def mistake(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The line on stderr of a command that must fail with exit code 2."""
    assert main(list(words)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    last = output.err.strip().splitlines()[-1]
    assert last.startswith(f"quantvggt {words[0]}: ")
    return last


def write_photo(path: Path) -> None:
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(path)


def test_no_images(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    line = mistake(capsys, "reconstruct", model, str(tmp_path), "-o", str(tmp_path / "out"))
    assert f"no images in folder {tmp_path}" in line
    assert not (tmp_path / "out").exists()


def test_no_such_source(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str) -> None:
    assert str(tmp_path / "gone") in mistake(capsys, "reconstruct", model, str(tmp_path / "gone"))


def test_unreadable_image(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str) -> None:
    write_photo(tmp_path / "good.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    assert "torn.png" in mistake(capsys, "reconstruct", model, str(tmp_path), "-o", str(tmp_path / "out"))


@pytest.mark.parametrize("what", ["torn photo", "no photos", "torn video"])
def test_what_is_wrong_with_the_input_is_said_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded first")

    monkeypatch.setattr("quantvggt.api.load", loaded)
    source = tmp_path / "input"
    source.mkdir()
    if what == "torn photo":
        write_photo(source / "0.png")
        (source / "1.png").write_bytes((source / "0.png").read_bytes()[:60])
    if what == "torn video":
        source = source / "film.mp4"
        source.write_bytes(b"\0\0\0\x18ftypisom\0\0\2\0isomavc1")
    line = mistake(capsys, "reconstruct", model, str(source), "-o", str(tmp_path / "out"))
    assert ("1.png" if what == "torn photo" else str(source)) in line


def test_cameras_for_a_model_that_makes_no_use_of_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    write_photo(tmp_path / "photo.png")
    cameras = tmp_path / "cameras.json"
    command = (
        "reconstruct",
        model,
        str(tmp_path / "photo.png"),
        "-o",
        str(tmp_path / "out"),
        "--cameras",
        str(cameras),
    )
    assert f"cannot read cameras {cameras}" in mistake(capsys, *command)
    lens = [[40, 0, 20], [0, 40, 15], [0, 0, 1]]
    frame = {"name": "photo.png", "width": 40, "height": 30, "intrinsics": lens, "extrinsics": np.eye(3, 4).tolist()}
    cameras.write_text(json.dumps({"frames": [frame]}))
    assert "vggt make no use of given extrinsics and intrinsics" in mistake(capsys, *command)
    assert not (tmp_path / "out").exists()


def test_frames_rate_and_every_contradict(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str) -> None:
    write_photo(tmp_path / "photo.png")
    for options in (
        ["--frames", "2", "--every", "2"],
        ["--rate", "1", "--every", "2"],
        ["--frames", "2", "--rate", "1"],
    ):
        assert "not both" in mistake(capsys, "reconstruct", model, str(tmp_path), "-o", str(tmp_path / "o"), *options)


def test_video_without_frames(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str) -> None:
    file = tmp_path / "sound.mkv"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    assert "sound.mkv" in mistake(capsys, "reconstruct", model, str(file), "-o", str(tmp_path / "out"))


def test_folder_that_is_no_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_photo(tmp_path / "photo.png")
    assert "is not a checkpoint" in mistake(capsys, "quantize", str(tmp_path), str(tmp_path / "out"))


def test_unknown_scheme_method_and_setting(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str) -> None:
    out = str(tmp_path / "out")
    assert "unknown scheme 'int4'" in mistake(capsys, "quantize", model, out, "--scheme", "int4")
    assert "unknown method 'gptq4'; use one of" in mistake(capsys, "quantize", model, out, "--method", "gptq4")
    assert "has no setting beta" in mistake(capsys, "quantize", model, out, "--setting", "beta=1")
    assert "write NAME=VALUE" in mistake(capsys, "quantize", model, out, "--setting", "beta")
    for option in ("--scheme=w8a8-fp8", "--rest=w8a8-fp8", "--site=*.fc2=w8a8-fp8"):
        told = mistake(capsys, "quantize", "nowhere", out, option)  # before anything is read
        assert "method barq-2 rounds to integers, which w8a8-fp8 hasn't; use rtn or smoothquant" in told
    assert not Path(out).exists()


def test_output_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str) -> None:
    write_photo(tmp_path / "photo.png")
    file = str(tmp_path / "photo.png")
    assert "it is a file" in mistake(capsys, "quantize", model, file)
    assert "not a folder you may write" in mistake(capsys, "reconstruct", model, file, "-o", f"{file}/below")


def test_output_that_exists_is_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str) -> None:
    write_photo(tmp_path / "photo.png")
    line = mistake(capsys, "reconstruct", model, str(tmp_path / "photo.png"), "-o", str(tmp_path))
    assert "pass --overwrite" in line
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_output_that_would_replace_the_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = qv.save(tiny_model(), tmp_path / "float")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    (folder / "trained.pt").write_bytes(b"never read")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "far").mkdir()
    for name in before:
        (tmp_path / "far" / name).symlink_to(folder / name)
    monkeypatch.chdir(tmp_path)
    for model, output in (
        (folder, folder),
        ("float", "far/../float/"),
        (folder, "link"),
        ("link", "float"),
        (folder / "model.safetensors", "float"),
        (folder / "trained.pt", "link"),
        ("far", folder),
        ("far", "far"),
    ):
        for words in (("quantize",), ("quantize", "--overwrite"), ("import-published", "--overwrite", "--scheme=w4a4")):
            between = ["parameters"] if words[0] == "import-published" else []
            line = mistake(capsys, words[0], str(model), *between, str(output), *words[1:])
            assert f"input and output are the same: {model} lies in {output}" in line
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert main(["quantize", "float", "float/small", "--method", "rtn"]) == 0  # inside it nothing is replaced
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_unknown_format(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str) -> None:
    write_photo(tmp_path / "photo.png")
    words = ("reconstruct", model, str(tmp_path / "photo.png"), "-o", str(tmp_path / "out"), "--formats", "obj")
    assert "obj" in mistake(capsys, *words)


def test_one_image_is_fine_and_says_what_it_means(tmp_path: Path) -> None:
    write_photo(tmp_path / "photo.png")
    with pytest.warns(UserWarning, match="single view"):
        scene = qv.reconstruct(sane_model(), tmp_path / "photo.png")
    assert len(scene.names) == 1


def test_wrong_words_exit_with_2() -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["quantise"])
    assert stopped.value.code == 2


def test_options_of_the_export_are_checked_before_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("reconstruct", "no-such-model", str(tmp_path), "-o", str(tmp_path / "out"))
    assert "cannot read intrinsics '1,2'" in mistake(capsys, *words, "--intrinsics", "1,2")
    assert "ask for at least 1" in mistake(capsys, *words, "--max-points", "0")
    assert "voxel is -1" in mistake(capsys, *words, "--voxel", "-1")
    assert "give 0 to 100" in mistake(capsys, *words, "--min-confidence", "300")
