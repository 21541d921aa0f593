"""Other families than VGGT's go in chunks where memory is short, too."""

import json
from pathlib import Path

import numpy as np
import pytest

import da3_recorded
import quantvggt as qv
from pi3_models import CONFIG_X, sane_pi3
from quantvggt.cli.main import main
from quantvggt.core.errors import InputError
from quantvggt.models import Model
from quantvggt.reconstruction import predict
from quantvggt.reconstruction.cameras import Camera, KnownCameras
from quantvggt.reconstruction.long import estimate
from quantvggt.reconstruction.long.run import Chunking, reconstruct_long
from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.sequence import ClipFrames
from quantvggt.scenes.synthetic import make_path
from reconstruction_photos import write_photo

COUNT = 14


@pytest.mark.parametrize("model", [da3_recorded.sane_model(), sane_pi3()], ids=lambda model: model.config.family)
def test_little_memory_makes_chunks(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(estimate, "resident_bytes", lambda: 0)
    qv.save(model, tmp_path / "model")
    for number in range(COUNT):
        write_photo(tmp_path / "photos" / f"{number:02d}.png", (56, 56), seed=number)
    five = estimate.estimate(model, 5, (56, 56), None, 1.0)
    assert five is not None
    allowed = five.bytes + 100_000
    memory = int(allowed / (1 - estimate.KEPT_FREE)) + 1
    command = ["reconstruct", str(tmp_path / "model"), str(tmp_path / "photos"), "--formats", "npz"]
    command += ["--dtype", "float32", "--json"]
    assert main([*command, "--output", str(tmp_path / "scene"), "--max-memory", str(memory)]) == 0
    output = capsys.readouterr()
    found = json.loads(output.out)
    size, height, width = found["chunking"]["size"], found["height"], found["width"]
    assert found["estimate"]["bytes"] <= allowed
    assert 3 <= size < COUNT
    assert f"{COUNT} frames of {width}x{height} in chunks of {size}" in output.err
    assert len(Scene.load(tmp_path / "scene").names) == found["frames"] == COUNT


def cameras_of(clip: Clip, count: int) -> KnownCameras:
    """The true ones of the first frames, in a world whose origin no camera is."""
    assert clip.truth is not None
    poses, lenses = clip.truth.extrinsics.double().numpy(), clip.truth.intrinsics.double().numpy()
    poses = np.concatenate((poses[:, :, :3], poses[:, :, 3:] + poses[:, :, :3] @ np.array([[1.0], [2], [3]])), axis=2)
    size = clip.images.shape[-1], clip.images.shape[-2]
    frames = list(zip(clip.names, poses, lenses, strict=True))[:count]
    return KnownCameras({name: Camera(pose, lens, size) for name, pose, lens in frames}, "cameras.json")


@pytest.mark.parametrize(
    "model", [da3_recorded.sane_model(), sane_pi3(CONFIG_X)], ids=lambda model: model.config.family
)
def test_chunks_are_in_the_world_of_known_cameras(model: Model, tmp_path: Path) -> None:
    path = make_path(11, 9, 0.5, 56)
    cameras = cameras_of(path, 9)
    scene = reconstruct_long(model, ClipFrames(path), tmp_path, Chunking(5, 3), progress=False, cameras=cameras)
    given = cameras.of(path)
    assert scene.names == path.names
    np.testing.assert_allclose(scene.extrinsics, given.extrinsics, atol=1e-5)
    np.testing.assert_allclose(scene.intrinsics, given.intrinsics, rtol=1e-5)
    assert scene.provenance["extrinsics"] == "given"
    assert scene.provenance["chunking"]["chunks"] == 3
    first = Clip(path.images[:5], path.names[:5], {})
    alone = predict.reconstruct(model, first, given=cameras.of(first))
    np.testing.assert_allclose(scene.depth[:3], alone.depth[:3], rtol=1e-4)
    np.testing.assert_allclose(scene.points[:3], alone.points[:3], rtol=1e-3, atol=1e-3)


def test_a_camera_that_is_missing_is_said_before_the_first_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "reconstruct", None)
    path = make_path(11, 9, 0.5, 56)
    cameras = cameras_of(path, 8)
    with pytest.raises(InputError, match=f"no camera of its own for {path.names[8]}"):
        reconstruct_long(
            da3_recorded.sane_model(), ClipFrames(path), tmp_path, Chunking(5, 3), progress=False, cameras=cameras
        )
