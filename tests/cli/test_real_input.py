"""Inputs from real life through `reconstruct`: what once was refused, cut in silence or failed after all the work."""

import io
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import quantvggt as qv
from quantvggt.cli.main import main
from quantvggt.reconstruction.scene import Scene
from tiny import sane_model
from videos import damage_packets, write_frames


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    qv.save(sane_model(), folder)
    return str(folder)


def pixels(width: int, height: int, view: int = 0) -> np.ndarray:
    """A checkerboard over two ramps, shifted from view to view."""
    y, x = np.mgrid[0:height, 0:width]
    size = max(4, width // 12)
    board = ((x + 3 * view) // size + y // size) % 2 * 200
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), board], -1).astype(np.uint8)


def photo(width: int = 640, height: int = 480, view: int = 0) -> Image.Image:
    return Image.fromarray(pixels(width, height, view))


def broken_exif(path: Path) -> None:
    """Orientation 6 beside a rational whose denominator is negative."""
    stream = io.BytesIO()
    photo().save(stream, "JPEG")
    entries = struct.pack("<HHHIHH", 2, 0x0112, 3, 1, 6, 0) + struct.pack("<HHIII", 0x011A, 10, 1, 38, 0)
    raw = b"Exif\0\0II*\0\x08\0\0\0" + entries + struct.pack("<ii", -1, 0)
    jpeg = stream.getvalue()
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(raw) + 2) + raw + jpeg[2:])


def run(capsys: pytest.CaptureFixture[str], model: str, source: Path, *words: str) -> tuple[dict[str, Any], Scene]:
    """What the command says in JSON, and the scene that it wrote."""
    output = source.parent / "out"
    assert main(["reconstruct", model, str(source), "-o", str(output), "--overwrite", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out), Scene.load(output)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


@pytest.mark.filterwarnings("ignore:the images differ", "ignore:.*taller than wide")
def test_broken_exif_costs_no_photo(capsys: pytest.CaptureFixture[str], folder: Path, model: str) -> None:
    photo(view=1).save(folder / "a.jpg")
    broken_exif(folder / "b.jpg")
    _, scene = run(capsys, model, folder)
    sizes = [(frame["width"], frame["height"]) for frame in scene.provenance["source"]["frames"]]
    assert scene.names == ["a.jpg", "b.jpg"]
    assert sizes == [(640, 480), (480, 640)]


def test_names_in_any_bytes(capsys: pytest.CaptureFixture[str], folder: Path, model: str) -> None:
    names = (b"a b.jpg", b"caf\xe9.jpg", "写真.jpg".encode(), b"two\nlines'\".jpg", b"x" * 251 + b".jpg")
    for view, name in enumerate(names):
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            photo(view=view).save(file, "JPEG")
    result, scene = run(capsys, model, folder)
    assert result["frames"] == 5
    assert scene.names[:4] == ["a b.jpg", "caf_.jpg", "two_lines'\".jpg", "x" * 236 + ".jpg"]
    assert len(scene.provenance["source"]["frames"][1]["path"].encode(errors="surrogateescape")) > 0
    for path in result["files"].values():
        assert Path(path).exists()
    assert b"\xe9" not in (folder.parent / "out" / "cameras.json").read_bytes()


def test_damaged_packets_of_a_video(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str) -> None:
    frames = (pixels(96, 64, index) for index in range(30))
    write_frames(tmp_path / "a.mp4", frames, size=(96, 64), preset="ultrafast", crf="18")
    damage_packets(tmp_path / "a.mp4", (10, 11, 12))
    with pytest.warns(UserWarning, match="27 of 30 frames of .* are usable") as told:
        result, _ = run(capsys, model, tmp_path / "a.mp4", "--frames", "6")
    assert result["frames"] == 6
    assert sum("usable" in str(warning.message) for warning in told) == 1


def test_wide_pixels_of_a_video(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str) -> None:
    frames = (pixels(96, 72, index) for index in range(6))
    write_frames(tmp_path / "a.mp4", frames, size=(96, 72), aspect=(4, 3))
    _, scene = run(capsys, model, tmp_path / "a.mp4", "--every", "3")
    sizes = [(frame["width"], frame["height"]) for frame in scene.provenance["source"]["frames"]]
    assert sizes == [(128, 72)] * 2
    assert scene.names == ["a_000000", "a_000003"]


def test_nothing_comes_from_where_a_cut_out_is_transparent(
    capsys: pytest.CaptureFixture[str], folder: Path, model: str
) -> None:
    for view in range(3):
        image = photo(view=view).convert("RGBA")
        alpha = np.full((480, 640), 255, np.uint8)
        alpha[:, :320] = 0
        image.putalpha(Image.fromarray(alpha))
        image.save(folder / f"{view}.png")
    every_pixel = ("--min-confidence", "0", "--voxel", "0", "--keep-floaters")
    result, scene = run(capsys, model, folder, *every_pixel)
    height, width = scene.size
    clear = np.broadcast_to(np.arange(width) < width // 2, scene.depth.shape)
    for values in (scene.depth, scene.depth_conf, scene.points_conf):
        np.testing.assert_array_equal(values == 0, clear)
    assert result["points"] == 3 * height * (width - width // 2)
    with np.load(next((folder.parent / "out" / "depth").rglob("*.npz"))) as stored:
        for key in stored.files:
            if stored[key].shape[-2:] == scene.size:
                assert (stored[key][..., : width // 2] == 0).all(), key
    ply = (folder.parent / "out" / "points.ply").read_bytes()
    assert f"element vertex {result['points']}\n".encode() in ply


def test_portraits_are_not_cut_in_silence(capsys: pytest.CaptureFixture[str], folder: Path, model: str) -> None:
    for view in range(2):
        photo(3024 // 8, 4032 // 8, view).save(folder / f"{view}.jpg")
    with pytest.warns(UserWarning, match="crop mode cuts .*--mode pad") as told:
        run(capsys, model, folder)
    assert sum("--mode pad" in str(warning.message) for warning in told) == 1
    _, scene = run(capsys, model, folder, "--mode", "pad")
    frame = scene.provenance["source"]["frames"][0]
    assert frame["offset"][1] == 0
    assert round(frame["scale"][1] * frame["height"]) == scene.size[0]


@pytest.mark.filterwarnings("ignore:the images differ", "ignore:.*taller than wide")
def test_each_photo_of_a_mixed_set_has_a_camera_of_its_size(
    capsys: pytest.CaptureFixture[str], folder: Path, model: str
) -> None:
    sizes = ((640, 480), (480, 640), (640, 360), (500, 500))
    for view, size in enumerate(sizes):
        photo(*size, view).save(folder / f"{view}.jpg")
    run(capsys, model, folder)
    cameras = json.loads((folder.parent / "out" / "cameras.json").read_text())["frames"]
    for camera, (width, height) in zip(cameras, sizes, strict=True):
        original = camera["original"]
        assert (original["width"], original["height"]) == (width, height)
        matrix = np.array(original["intrinsics"])
        np.testing.assert_allclose(matrix[:2, 2], [width / 2, height / 2], atol=1e-3)


def test_skip_unreadable_and_folders_of_folders(capsys: pytest.CaptureFixture[str], folder: Path, model: str) -> None:
    for name in ("b/2.jpg", "b/10.jpg", "a/2.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        photo(64, 48).save(folder / name)
    (folder / "a" / "0.jpg").write_text("no photo")
    assert main(["reconstruct", model, str(folder), "-o", str(folder.parent / "out")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("quantvggt reconstruct: cannot read image ")
    assert not (folder.parent / "out").exists()
    with pytest.warns(UserWarning, match="1 of 4 images are left out") as told:
        _, scene = run(capsys, model, folder, "--skip-unreadable")
    assert any("only in folders below it: reading all 4 from 2 folders" in str(warning.message) for warning in told)
    assert scene.names == ["a/2.jpg", "b/2.jpg", "b/10.jpg"]
