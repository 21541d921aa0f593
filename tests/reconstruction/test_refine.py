"""Bundle adjustment: cameras get truer where that can be known, and never worse."""

import dataclasses
from importlib import util

import numpy as np
import pytest

import quantvggt as qv
from quantvggt.core.errors import InputError
from quantvggt.evaluate.metrics.pose import auc, pose_errors
from quantvggt.reconstruction.bundle import summary
from quantvggt.reconstruction.depth import depth_edges
from quantvggt.reconstruction.geometry import project, unproject
from quantvggt.reconstruction.matches import match, reduced
from quantvggt.reconstruction.refine import refine
from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clip
from truth_scene import truth_scene

CAN = HELD_OUT_SEED + 5
"""A held-out scene whose frames share a lot."""


def disturbed(scene: Scene, degrees: float, seed: int = 0) -> Scene:
    """The scene with cameras turned at random (the first one not), and points that follow."""
    rng = np.random.default_rng(seed)
    extrinsics = scene.extrinsics.astype(np.float64)
    for frame in range(1, len(extrinsics)):
        x, y, z = np.radians(degrees) * rng.normal(size=3) / np.sqrt(3)
        turn = np.array([[1, -z, y], [z, 1, -x], [-y, x, 1]])
        u, _, vt = np.linalg.svd(turn)
        extrinsics[frame] = u @ vt @ extrinsics[frame]
    extrinsics = extrinsics.astype(np.float32)
    points = unproject(scene.depth, extrinsics, scene.intrinsics)
    points[scene.depth == 0] = 0
    return dataclasses.replace(scene, extrinsics=extrinsics, points=points)


def median_error(scene: Scene, truth: Scene) -> float:
    return float(np.median(np.maximum(*pose_errors(scene.extrinsics, truth.extrinsics))))


def test_matches_are_where_the_truth_has_them() -> None:
    truth = truth_scene(make_clip(CAN, frames=6))
    start, tracks = match(disturbed(truth, 1.0))
    first = np.flatnonzero(np.diff(tracks.point, prepend=-1))
    assert np.bincount(tracks.point).min() >= 2
    assert len(first) == len(start) > 60
    columns, rows = np.floor(tracks.xy[first]).astype(int).T
    surface = truth.points[tracks.frame[first], rows, columns]
    others = np.setdiff1d(np.arange(len(tracks)), first)
    errors = []
    for frame in range(6):
        mine = others[tracks.frame[others] == frame]
        xy, _ = project(surface[tracks.point[mine]], truth.extrinsics[frame], truth.intrinsics[frame])
        errors.append(np.linalg.norm(xy - tracks.xy[mine], axis=1))
    # The disturbed cameras are wrong by 1.7 pixels and more.
    assert np.median(np.concatenate(errors)) < 0.4


def test_turned_cameras_come_back() -> None:
    truth = truth_scene(make_clip(CAN, frames=8))
    turned = disturbed(truth, 1.5)
    done = refine(turned)
    assert done.reason is None
    assert done.after is not None
    assert done.before is not None
    assert done.after < 0.5 * done.before
    assert median_error(done.scene, truth) < 0.5 * median_error(turned, truth)
    np.testing.assert_array_equal(done.scene.intrinsics, turned.intrinsics)
    seen = done.scene.depth > 0
    np.testing.assert_array_equal(seen, turned.depth > 0)
    rows, columns = np.nonzero(seen[2])
    pixels, depth = project(done.scene.points[2][seen[2]], done.scene.extrinsics[2], done.scene.intrinsics[2])
    np.testing.assert_allclose(pixels, np.stack([columns, rows], -1) + 0.5, atol=0.01)
    np.testing.assert_allclose(depth, done.scene.depth[2][seen[2]], rtol=1e-4)
    assert "refined with" in summary(done.record())
    assert done.record()["applied"]


def test_a_real_model_gets_better_and_no_scene_worse() -> None:
    """vggt-nano on held-out scenes, of which the second shares too little to be refined."""
    model = qv.load("vggt-nano")
    before, after = [], []
    for seed in (CAN, HELD_OUT_SEED + 3, HELD_OUT_SEED + 7):
        clip = make_clip(seed, frames=8)
        assert clip.truth is not None
        scene = qv.reconstruct(model, clip)
        done = refine(scene)
        truth = clip.truth.extrinsics.numpy()
        before.append(auc(*pose_errors(scene.extrinsics, truth), 5))
        after.append(auc(*pose_errors(done.scene.extrinsics, truth), 5))
        if done.reason is not None:
            assert done.scene is scene
    assert all(b <= a for b, a in zip(before, after, strict=True))
    assert after[0] > before[0] + 0.2
    assert after[2] > before[2] + 0.2


def test_scenes_that_cannot_be_refined_stay_as_they_are() -> None:
    truth = truth_scene(make_clip(CAN, frames=4))
    blank = dataclasses.replace(truth, images=np.full_like(truth.images, 128))
    noise = np.random.default_rng(0).integers(0, 255, truth.images.shape, dtype=np.uint8)
    single = truth_scene(make_clip(CAN, frames=1))
    for scene in (blank, dataclasses.replace(truth, images=noise), single):
        done = refine(scene)
        assert done.scene is scene
        assert done.reason is not None
        assert done.reason in summary(done.record())
        assert not done.record()["applied"]


def test_an_adjustment_that_goes_astray_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matches that lie, by three pixels each, on a scene that was right."""
    truth = truth_scene(make_clip(CAN, frames=8))

    def lying(scene: Scene) -> tuple[np.ndarray, object]:
        start, tracks = match(scene)
        rng = np.random.default_rng(0)
        shifts = rng.normal(size=(len(tracks), 2)) * 3
        return start, dataclasses.replace(tracks, xy=tracks.xy + shifts)

    monkeypatch.setattr("quantvggt.reconstruction.refine.match", lying)
    done = refine(truth)
    assert done.scene is truth
    assert done.reason is not None


def test_without_pycolmap_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    find = util.find_spec
    monkeypatch.setattr(
        "quantvggt.reconstruction.bundle.find_spec", lambda name: None if name == "pycolmap" else find(name)
    )
    with pytest.raises(InputError, match=r"pip install 'quantvggt\[refine\]'"):
        refine(truth_scene(make_clip(CAN, frames=2)))


def test_large_frames_are_matched_at_a_smaller_size() -> None:
    """The smaller scene is the same scene, with points on the same surfaces; refining uses it."""
    truth = truth_scene(make_clip(CAN, frames=6, size=336))
    small = reduced(truth, 3)
    assert small.size == (112, 112)
    inner = ~depth_edges(truth.depth)[:, 1::3, 1::3] & (small.depth > 0)
    near = np.linalg.norm(small.points - truth.points[:, 1::3, 1::3], axis=-1)
    assert np.quantile(near[inner] / small.depth[inner], 0.95) < 0.01
    means = truth.images.reshape(6, 112, 3, 112, 3, 3).mean((2, 4))
    assert np.abs(small.images - means).max() <= 0.5


def test_turned_cameras_of_large_frames_come_back() -> None:
    truth = truth_scene(make_clip(CAN, frames=8, size=(336, 518)))
    turned = disturbed(truth, 1.5)
    done = refine(turned)
    assert done.reason is None
    assert median_error(done.scene, truth) < 0.5 * median_error(turned, truth)
