"""Many pixels to one point: tracks that are true, floaters that go, and what it is good for, measured."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial import cKDTree

import quantvggt as qv
from quantvggt.core.errors import InputError
from quantvggt.core.similarity import umeyama
from quantvggt.reconstruction.depth import depth_edges, sample_depth
from quantvggt.reconstruction.fuse import fuse, pixel_footprint
from quantvggt.reconstruction.geometry import project, unproject
from quantvggt.reconstruction.points import PointCloud, select_points
from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clip
from truth_scene import small_scene, truth_scene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene(frames=4)


def test_every_observation_of_a_true_scene_is_true(scene: Scene) -> None:
    cloud = fuse(scene, select_points(scene, 0))
    tracks, lengths = cloud.tracks, np.bincount(cloud.tracks.point)
    assert len(lengths) == len(cloud)
    assert lengths.min() == 1
    assert lengths.max() == 3
    assert (np.diff(tracks.point) >= 0).all()
    assert len(np.unique(tracks.point * 4 + tracks.frame)) == len(tracks)  # a frame sees a point once
    for frame in range(4):
        mine = tracks.frame == frame
        xy, z = project(cloud.xyz[tracks.point[mine]], scene.extrinsics[frame], scene.intrinsics[frame])
        assert np.linalg.norm(xy - tracks.xy[mine], axis=1).max() < 2
        depth = sample_depth(scene.depth[frame], tracks.xy[mine])
        assert np.quantile(np.abs(depth - z) / z, 0.98) < 0.02
    own = np.stack([cloud.column, cloud.row], -1) + 0.5
    for point in range(0, len(cloud), 97):
        seen = (tracks.point == point) & (tracks.frame == cloud.frame[point])
        assert tracks.xy[seen].tolist() == [own[point].tolist()]


def test_points_of_one_voxel_become_one_and_colours_are_averaged(scene: Scene) -> None:
    chosen = select_points(scene, 0)
    edge = 0.5
    merged = fuse(scene, chosen, clean=False, voxel=edge)
    cells = np.floor(chosen.xyz.astype(np.float64) / edge).astype(int)
    keys, inverse = np.unique(cells, axis=0, return_inverse=True)
    assert len(merged) == len(keys)
    sums = np.zeros((len(keys), 3))
    np.add.at(sums, inverse.ravel(), chosen.rgb)
    means = {tuple(key): value for key, value in zip(keys, sums / np.bincount(inverse.ravel())[:, None], strict=True)}
    start = scene.points[merged.frame, merged.row, merged.column].astype(np.float64)
    for cell, colour in zip(np.floor(start / edge).astype(int), merged.rgb, strict=True):
        assert np.abs(means[tuple(cell)] - colour).max() <= 0.5
    assert len(fuse(scene, chosen, clean=False, voxel=0)) == len(chosen)
    footprint = pixel_footprint(scene, chosen)
    assert 0.5 < footprint * np.median(scene.intrinsics[:, 0, 0]) / np.median(scene.depth[scene.depth > 0]) < 2


def test_a_floater_goes_and_what_hides_behind_others_stays(scene: Scene) -> None:
    """One pixel is pulled to half its depth: other frames look through it. Without `clean` it stays."""
    spoiled = dataclasses.replace(scene, depth=scene.depth.copy(), points=scene.points.copy())
    seen = fuse(scene, select_points(scene, 0), voxel=0)
    lengths = np.bincount(seen.tracks.point)
    edges = depth_edges(scene.depth)
    inner = [
        i for i in np.flatnonzero(lengths == 3) if seen.frame[i] == 0 and not edges[0, seen.row[i], seen.column[i]]
    ]
    row, column = seen.row[inner[0]], seen.column[inner[0]]
    spoiled.depth[0, row, column] *= 0.5
    spoiled.points[0] = unproject(spoiled.depth[:1], scene.extrinsics[:1], scene.intrinsics[:1])[0]

    def has(cloud: PointCloud) -> bool:
        return bool(((cloud.frame == 0) & (cloud.row == row) & (cloud.column == column)).any())

    chosen = select_points(spoiled, 0)
    assert has(fuse(spoiled, chosen, clean=False, voxel=0))
    assert not has(fuse(spoiled, chosen, voxel=0))
    # Points that only one frame sees, because others are hidden or look elsewhere, are no floaters.
    assert (lengths == 1).sum() > 0


def test_depth_edges_and_sampling() -> None:
    step = np.full((6, 8), 2.0, np.float32)
    step[:, 4:] = 3.0
    step[0] = 0  # no value: neither an edge nor a neighbour
    edges = depth_edges(step[None])[0]
    assert edges[1:, 3:5].all()
    assert edges.sum() == 5 * 2
    rng = np.random.default_rng(0)
    xy = rng.uniform([0.5, 1.5], [7.5, 5.5], (500, 2))
    assert set(np.unique(sample_depth(step, xy))) <= {2.0, 3.0}
    rows, columns = np.mgrid[0:6, 0:8] + 0.5
    slanted = (5 + 0.03 * columns - 0.02 * rows).astype(np.float32)
    np.testing.assert_allclose(sample_depth(slanted, xy), 5 + 0.03 * xy[:, 0] - 0.02 * xy[:, 1], atol=1e-5)


def test_cleaning_makes_points_of_a_real_model_truer() -> None:
    """vggt-nano on held-out scenes: points get nearer to the true surface, and little of the surface is lost."""
    model = qv.load("vggt-nano")
    raw, clean = [], []
    for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + 3):
        clip = make_clip(seed, frames=4)
        scene, truth = qv.reconstruct(model, clip), truth_scene(clip)
        both = (truth.depth > 0) & (scene.depth > 0)
        similarity = umeyama(scene.points[both], truth.points[both])
        surface = truth.points[truth.depth > 0]
        chosen = select_points(scene)
        for cloud, found in ((chosen, raw), (fuse(scene, chosen), clean)):
            moved = similarity.apply(cloud.xyz.astype(np.float64))
            accuracy = cKDTree(surface).query(moved)[0].mean()
            completeness = cKDTree(moved).query(surface[::7])[0].mean()
            found.append((accuracy, completeness))
    (accuracy, completeness), (cleaner, less_complete) = np.mean(raw, axis=0), np.mean(clean, axis=0)
    assert cleaner < 0.97 * accuracy
    assert less_complete < 1.25 * completeness


def test_what_cannot_be_fused(scene: Scene) -> None:
    chosen = select_points(scene, 0)
    with pytest.raises(InputError, match="voxel is -1"):
        fuse(scene, chosen, voxel=-1)


def test_a_cloud_of_nothing_but_edges_stays_whole(scene: Scene) -> None:
    noise = np.random.default_rng(0).uniform(1, 9, scene.depth.shape).astype(np.float32)
    spoiled = dataclasses.replace(scene, depth=noise)
    chosen = select_points(spoiled, 99.5)
    with pytest.warns(UserWarning, match="every point lies on a depth edge"):
        assert len(fuse(spoiled, chosen, voxel=0)) == len(chosen)
