"""A model's outputs to a Scene. The model here is an oracle that answers with a synthetic scene's truth."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quantvggt.core.errors import InputError, QuantVGGTError
from quantvggt.models import VGGT, Answers, VGGTConfig
from quantvggt.reconstruction.export.views import make_views
from quantvggt.reconstruction.geometry import project
from quantvggt.reconstruction.lens import read_intrinsics
from quantvggt.reconstruction.predict import reconstruct
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.images import load_images
from quantvggt.scenes.synthetic import make_clip
from tiny import tiny_clip, tiny_model
from truth_scene import first_camera_frame, truth_scene


class Oracle:
    """Looks like a model with these heads and knows the truth of one clip."""

    device = torch.device("cpu")
    quantization = None
    attention = "exact"
    attention_bits = 16

    def __init__(self, clip: Clip, heads: tuple[str, ...] = ("camera", "depth", "point")) -> None:
        self.heads, self.clip = heads, clip

    def answers(self, images: torch.Tensor) -> Answers:
        assert images.shape[1:] == self.clip.images.shape
        truth, scene = self.clip.truth, truth_scene(self.clip)
        assert truth is not None
        cameras = torch.from_numpy(first_camera_frame(truth.extrinsics.double().numpy())).float()
        everything = {
            "camera": {"extrinsics": cameras, "intrinsics": truth.intrinsics},
            "depth": {"depth": truth.depth, "depth_conf": 1 + truth.depth},
            "point": {"points": torch.from_numpy(scene.points), "points_conf": 2 + torch.from_numpy(scene.depth)},
        }
        known = {key: x[None] for head in self.heads for key, x in everything[head].items()}
        return Answers((images.shape[-2], images.shape[-1]), **known)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return make_clip(5, frames=4, size=84)


@pytest.mark.parametrize("points", ["depth", "pointmap"])
def test_a_perfect_model_gives_the_true_scene(clip: Clip, points: str) -> None:
    scene, truth = reconstruct(Oracle(clip), clip, points=points), truth_scene(clip)  # type: ignore[arg-type]
    assert scene.names == clip.names
    np.testing.assert_array_equal(scene.images, truth.images)
    np.testing.assert_allclose(scene.extrinsics, truth.extrinsics, atol=1e-5)
    np.testing.assert_allclose(scene.intrinsics, truth.intrinsics, rtol=1e-5)
    np.testing.assert_array_equal(scene.depth, truth.depth)
    seen = truth.depth > 0
    np.testing.assert_allclose(scene.points[seen], truth.points[seen], atol=1e-4)
    np.testing.assert_array_equal(scene.depth_conf > 0, seen)
    assert scene.provenance["points"] == points
    assert (scene.provenance["method"], scene.provenance["scheme"]) == ("float", "float32")


def test_sky_has_no_value(clip: Clip) -> None:
    scene = reconstruct(Oracle(clip), clip)  # type: ignore[arg-type]
    sky = clip.truth.depth.numpy() == 0  # type: ignore[union-attr]
    assert sky.any()
    assert (scene.points_conf[sky] == 0).all()
    assert (scene.points[sky] == 0).all()


def test_depth_comes_from_the_points_if_there_is_no_depth_head(clip: Clip) -> None:
    scene = reconstruct(Oracle(clip, ("camera", "point")), clip, points="pointmap")  # type: ignore[arg-type]
    seen = clip.truth.depth.numpy() > 0  # type: ignore[union-attr]
    np.testing.assert_allclose(scene.depth[seen], clip.truth.depth.numpy()[seen], rtol=1e-4)  # type: ignore[union-attr]


def test_values_that_are_not_finite_are_no_values(clip: Clip) -> None:
    class Overflowing(Oracle):
        def answers(self, images: torch.Tensor) -> Answers:
            answers = super().answers(images)
            assert answers.depth is not None
            depth = answers.depth.clone()
            depth[0, 1, 80, 10:12] = torch.tensor([torch.inf, torch.nan])
            return replace(answers, depth=depth)

    scene = reconstruct(Overflowing(clip), clip)  # type: ignore[arg-type]
    assert (scene.depth[1, 80, 10:12] == 0).all()
    assert (scene.points_conf[1, 80, 10:12] == 0).all()
    assert np.isfinite(scene.points).all()
    assert scene.depth_conf[1, 80, 12] > 0


def test_cameras_that_are_not_finite_are_an_error(clip: Clip) -> None:
    class Lost(Oracle):
        def answers(self, images: torch.Tensor) -> Answers:
            answers = super().answers(images)
            assert answers.extrinsics is not None
            return replace(answers, extrinsics=answers.extrinsics * torch.nan)

    with pytest.raises(QuantVGGTError, match="cameras are not finite"):
        reconstruct(Lost(clip), clip)  # type: ignore[arg-type]


@pytest.mark.parametrize("spoiled", ["extrinsics", "depth"])
def test_a_frame_that_is_not_finite_is_left_out(clip: Clip, spoiled: str) -> None:
    class Lost(Oracle):
        def answers(self, images: torch.Tensor) -> Answers:
            answers = super().answers(images)
            value = getattr(answers, spoiled).clone()
            value[0, 2] = torch.nan
            return replace(answers, **{spoiled: value})

    source = {
        "frames": [{"path": f"{i}.jpg", "width": 84, "height": 84, "scale": [1, 1], "offset": [0, 0]} for i in "0123"]
    }
    with pytest.warns(UserWarning, match=rf"not finite there: {clip.names[2]} \(1 of 4 frames\)") as told:
        scene = reconstruct(Lost(clip), replace(clip, source=source))  # type: ignore[arg-type]
    assert len(told) == 1
    kept, truth = [0, 1, 3], truth_scene(clip)
    assert scene.names == [clip.names[frame] for frame in kept]
    np.testing.assert_allclose(scene.extrinsics, truth.extrinsics[kept], atol=1e-5)
    np.testing.assert_array_equal(scene.depth, truth.depth[kept])
    np.testing.assert_array_equal(scene.images, truth.images[kept])
    assert [frame["path"] for frame in scene.provenance["source"]["frames"]] == ["0.jpg", "1.jpg", "3.jpg"]


class LensLost(Oracle):
    """Has this for the focal lengths of some frames, and their poses with what is behind them before them."""

    focal, frames, turned = 0.0, [2], False

    def answers(self, images: torch.Tensor) -> Answers:
        answers = super().answers(images)
        assert answers.extrinsics is not None
        assert answers.intrinsics is not None
        lens, pose = answers.intrinsics.clone(), answers.extrinsics.clone()
        lens[0, :, 0, 0] *= torch.arange(4) + 1
        for axis in (0, 1):
            lens[0, self.frames, axis, axis] = self.focal
        if self.turned:
            pose[0, self.frames] *= torch.tensor([-1.0, 1, -1])[:, None]
        return replace(answers, extrinsics=pose, intrinsics=lens)


@pytest.mark.parametrize("focal", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("heads", [("camera", "depth", "point"), ("camera", "depth")])
def test_a_frame_without_a_field_of_view_borrows_the_median_lens(
    clip: Clip, focal: float, heads: tuple[str, ...]
) -> None:
    oracle = LensLost(clip, heads)
    oracle.focal = focal
    with pytest.warns(UserWarning, match=rf"no field of view for {clip.names[2]} \(1 of 4 frames\)") as told:
        scene = reconstruct(oracle, clip)  # type: ignore[arg-type]
    assert len(told) == 1
    assert scene.names == clip.names
    assert scene.provenance["borrowed_lens"] == [clip.names[2]]
    truth = truth_scene(clip)
    np.testing.assert_allclose(scene.intrinsics[:, 0, 0] / truth.intrinsics[0, 0, 0], [1, 2, 2, 4], rtol=1e-5)
    np.testing.assert_allclose(scene.intrinsics[2, 1, 1], truth.intrinsics[2, 1, 1], rtol=1e-5)
    np.testing.assert_allclose(scene.extrinsics, truth.extrinsics, atol=1e-5)
    np.testing.assert_array_equal(scene.depth, truth.depth)
    seen = truth.depth[2] > 0
    pixels, _ = project(scene.points[2][seen], scene.extrinsics[2], scene.intrinsics[2])
    rows, columns = np.nonzero(seen)
    np.testing.assert_allclose(pixels, np.stack([columns, rows], -1) + 0.5, atol=1e-2)


def test_one_that_has_its_points_behind_it_stands_where_they_say(clip: Clip) -> None:
    oracle, truth = LensLost(clip), truth_scene(clip)
    oracle.turned, oracle.frames = True, [1, 2, 3]
    with pytest.warns(UserWarning, match="no field of view"):
        scene = reconstruct(oracle, clip)  # type: ignore[arg-type]
    assert scene.provenance["borrowed_lens"] == clip.names[1:]
    np.testing.assert_allclose(scene.intrinsics, truth.intrinsics, rtol=1e-5)
    np.testing.assert_allclose(scene.extrinsics, truth.extrinsics, atol=1e-3)
    with pytest.warns(UserWarning, match="no field of view"):
        believed = reconstruct(LensLost(clip), clip)  # type: ignore[arg-type]
    np.testing.assert_allclose(believed.extrinsics, truth.extrinsics, atol=1e-5)


def test_where_no_frame_has_a_lens_the_spare_one_stands_in(clip: Clip) -> None:
    oracle, truth = LensLost(clip, ("camera", "depth")), truth_scene(clip)
    oracle.frames = [0, 1, 2, 3]
    with pytest.raises(QuantVGGTError, match="field of view of zero"):
        reconstruct(oracle, clip)  # type: ignore[arg-type]
    scene = reconstruct(oracle, clip, spare=truth.intrinsics[0], tell=False)  # type: ignore[arg-type]
    np.testing.assert_array_equal(scene.intrinsics, truth.intrinsics[[0] * 4])
    assert scene.provenance["borrowed_lens"] == clip.names


def test_known_lenses_are_never_borrowed_ones(clip: Clip) -> None:
    truth = truth_scene(clip)
    known = truth.intrinsics.astype(np.float64)
    scene = reconstruct(LensLost(clip), clip, intrinsics=known)  # type: ignore[arg-type]
    assert "borrowed_lens" not in scene.provenance
    np.testing.assert_array_equal(scene.intrinsics, truth.intrinsics)


def test_a_model_that_sees_nothing_gets_cameras_from_its_points(clip: Clip) -> None:
    class Blind(Oracle):
        def answers(self, images: torch.Tensor) -> Answers:
            answers = super().answers(images)
            assert answers.extrinsics is not None
            assert answers.intrinsics is not None
            lens = answers.intrinsics.clone()
            lens[..., 0, 0] = lens[..., 1, 1] = torch.inf
            return replace(answers, extrinsics=answers.extrinsics * 0, intrinsics=lens)

    with pytest.warns(UserWarning, match="a field of view of zero"):
        scene = reconstruct(Blind(clip), clip)  # type: ignore[arg-type]
    truth = truth_scene(clip)
    np.testing.assert_allclose(scene.intrinsics[:, 0, 0], truth.intrinsics[:, 0, 0], rtol=0.02)
    np.testing.assert_allclose(scene.extrinsics[:, :, :3], truth.extrinsics[:, :, :3], atol=0.02)
    with pytest.raises(QuantVGGTError, match="field of view of zero"):
        reconstruct(Blind(clip, ("camera", "depth")), clip)  # type: ignore[arg-type]


def test_known_intrinsics_are_kept_and_unproject_depth(clip: Clip) -> None:
    truth = truth_scene(clip)
    source = {"frames": [{"path": "x", "width": 840, "height": 420, "scale": [0.1, 0.2], "offset": [0, 3]}] * 4}
    known = read_intrinsics("900,450,420,200").of(replace(clip, source=source))
    scene = reconstruct(Oracle(clip), replace(clip, source=source), intrinsics=known)  # type: ignore[arg-type]
    np.testing.assert_allclose(scene.intrinsics[0], [[90, 0, 42], [0, 90, 43], [0, 0, 1]], rtol=1e-6)
    seen = scene.depth[1] > 0
    pixels, depth = project(scene.points[1][seen], scene.extrinsics[1], scene.intrinsics[1])
    rows, columns = np.nonzero(seen)
    np.testing.assert_allclose(pixels, np.stack([columns, rows], -1) + 0.5, atol=1e-2)
    np.testing.assert_allclose(depth, truth.depth[1][seen], rtol=1e-5)
    assert scene.provenance["intrinsics"] == "given"
    written = [view.pinhole for view in make_views(scene)]
    np.testing.assert_allclose(written, [[900, 450, 420, 200]] * 4, rtol=2e-7)


def tiny_vggt(heads: tuple[str, ...]) -> VGGT:
    torch.manual_seed(0)
    config = VGGTConfig(
        img_size=56, embed_dim=32, depth=4, num_heads=2, patch_embed="conv", camera_trunk_depth=1,
        camera_num_heads=2, dpt_features=16, dpt_out_channels=(8, 8, 8, 8), dpt_layers=(0, 1, 2, 3),
        heads=heads,
    )  # fmt: skip
    model = VGGT(config).eval()
    if "camera" in heads:  # an untrained camera head would give a field of view of zero
        with torch.no_grad():
            model.camera_head.pose_branch.fc2.bias[7:] = 0.5
    return model


def test_a_real_model_and_real_files_with_padding(tmp_path: Path) -> None:
    for index in range(2):
        noise = np.random.default_rng(index).integers(0, 255, (40, 112, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{index}.png")
    clip = load_images(tmp_path, mode="pad", size=56)
    scene = reconstruct(tiny_vggt(("camera", "depth")), clip, model_name="tiny")
    assert scene.size == (56, 56)
    rows = round(40 / 112 * 56 / 14) * 14
    top = (56 - rows) // 2
    picture = np.zeros((2, 56, 56), bool)
    picture[:, top : top + rows] = True
    np.testing.assert_array_equal(scene.depth_conf > 0, picture)
    np.testing.assert_array_equal(scene.points_conf > 0, picture)
    assert scene.provenance["model"] == "tiny"
    assert scene.provenance["source"]["frames"][1]["path"].endswith("1.png")


def test_where_a_picture_is_transparent_there_is_nothing(tmp_path: Path) -> None:
    for index in range(2):
        noise = np.random.default_rng(index).integers(0, 255, (40, 112, 4), dtype=np.uint8)
        noise[..., 3] = 200
        noise[:, :56, 3] = 100
        Image.fromarray(noise).save(tmp_path / f"{index}.png")
    scene = reconstruct(tiny_vggt(("camera", "depth", "point")), load_images(tmp_path, mode="pad", size=56))
    clear = np.ones((2, 56, 56), bool)
    clear[:, 21:35, 28:] = False
    for values in (scene.depth, scene.depth_conf, scene.points_conf, scene.points.any(-1)):
        np.testing.assert_array_equal(values == 0, clear)


def test_pictures_that_are_transparent_everywhere_are_refused(clip: Clip) -> None:
    blank = replace(clip, shown=torch.zeros(4, 84, 84, dtype=torch.bool))
    with pytest.raises(InputError, match="transparent everywhere"):
        reconstruct(Oracle(clip), blank)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shown must be bool \[4, 84, 84\], got torch.bool \[84, 84\]"):
        replace(clip, shown=torch.zeros(84, 84, dtype=torch.bool))


def test_a_missing_head_is_named(clip: Clip) -> None:
    with pytest.raises(InputError, match="needs a model with a depth head"):
        reconstruct(tiny_vggt(("camera", "point")), clip)
    with pytest.raises(InputError, match="needs a model with a camera and a point head"):
        reconstruct(tiny_vggt(("depth",)), clip, points="pointmap")
    with pytest.raises(InputError, match="choose one of: depth, pointmap"):
        reconstruct(tiny_vggt(("depth",)), clip, points="tracks")


def test_frames_that_a_gpu_has_no_room_for_are_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()

    def full(images: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has a total capacity of")

    monkeypatch.setattr(model, "answers", full)
    with pytest.raises(InputError, match=r"^3 frames of 70x70 .*--frames.*--chunk\)$"):
        reconstruct(model, tiny_clip())
