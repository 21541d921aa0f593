"""Clouds against clouds: the recorded outputs of published evaluations, closed forms and brute force."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from quantvggt.core.errors import InputError
from quantvggt.evaluate.metrics.alignment import icp, match_medians, umeyama
from quantvggt.evaluate.metrics.dtu import DtuSurface, cloud_errors
from quantvggt.evaluate.metrics.surface import fscore, normals, surface_errors

FOLDER = Path(__file__).parents[1] / "golden" / "datasets"
RECORDED = json.loads((FOLDER / "points_scalars.json").read_text())
MEDIANS = json.loads((FOLDER / "points_median_scale_scalars.json").read_text())
RNG = np.random.default_rng(17)


def room():
    arrays = np.load(FOLDER / "points_sim3_room.npz")
    return (arrays[name][arrays["mask"]].astype(np.float64) for name in ("pred", "gt"))


def sphere(count=800):
    points = RNG.normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_points_after_similarity_and_icp_equal_the_published_evaluation():
    predicted, truth = room()
    recorded = RECORDED["room_sim3"]
    fitted = umeyama(predicted, truth)
    assert fitted.scale == pytest.approx(recorded["umeyama_scale"], abs=1e-9)
    np.testing.assert_allclose(fitted.rotation, recorded["umeyama_R"], atol=1e-9)
    np.testing.assert_allclose(fitted.translation, np.ravel(recorded["umeyama_t"]), atol=1e-9)

    moved = fitted.apply(predicted)
    registration = icp(moved, truth, recorded["icp_threshold"])
    motion = np.array(recorded["icp_transformation"])
    assert registration.fitness == pytest.approx(recorded["icp_fitness"], rel=1e-6)
    assert registration.inlier_rmse == pytest.approx(recorded["icp_inlier_rmse"], rel=1e-6)
    np.testing.assert_allclose(registration.motion.rotation, motion[:3, :3], atol=1e-9)
    np.testing.assert_allclose(registration.motion.translation, motion[:3, 3], atol=1e-9)

    moved = registration.motion.apply(moved)
    errors = surface_errors(moved, truth)
    for name, value in errors._asdict().items():
        assert value == pytest.approx(recorded[name], rel=1e-6), name
    score = fscore(moved, truth, 0.05)
    assert score.recall == pytest.approx(recorded["completion_ratio_0.05"], abs=1e-7)
    assert score._asdict() == pytest.approx(
        {k: recorded["fscore_novoxel_thr_0.05"][k] for k in score._fields}, abs=1e-9
    )


def test_points_after_medians_equal_the_published_evaluation():
    arrays, recorded = np.load(FOLDER / "points_median_scale.npz"), MEDIANS["first_camera_variant"]
    to_first = np.linalg.inv(arrays["camera_to_world"][0].astype(np.float64))
    truth = arrays["gt_world"].astype(np.float64) @ to_first[:3, :3].T + to_first[:3, 3]
    predicted, valid = arrays["pred"].astype(np.float64), arrays["valid"]
    fitted = match_medians(predicted[valid], truth[valid])
    assert fitted.scale == pytest.approx(recorded["gt_scale"] / recorded["pred_scale"], rel=1e-6)
    shift = recorded["gt_shift_z"] - fitted.scale * recorded["pred_shift_z"]
    np.testing.assert_allclose(fitted.translation, [0, 0, shift], atol=1e-6)

    left, top, right, bottom = recorded["crop_ltrb"]
    rows, columns = arrays["rows"], arrays["cols"]
    counted = valid & ((rows >= top) & (rows < bottom) & (columns >= left) & (columns < right))
    moved, true = fitted.apply(predicted[counted]), truth[counted]
    assert len(moved) == recorded["n_points"]
    registration = icp(moved, true, recorded["icp_threshold"])
    assert registration.fitness == pytest.approx(recorded["icp_fitness"], rel=1e-6)
    errors = surface_errors(registration.motion.apply(moved), true)
    for name, value in errors._asdict().items():  # recorded in float32 up to the registration
        assert value == pytest.approx(recorded[name], rel=1e-5, abs=1e-6), name


def test_icp_finds_a_small_motion_and_leaves_the_scale():
    truth = RNG.uniform(-1, 1, (400, 3))
    turn = Rotation.from_rotvec([0.01, -0.02, 0.015]).as_matrix()
    source = (truth - [0.01, 0.02, -0.01]) @ turn
    found = icp(source, truth, 0.5)
    assert found.fitness == 1
    assert found.inlier_rmse < 1e-9
    np.testing.assert_allclose(found.motion.apply(source), truth, atol=1e-9)
    assert found.motion.scale == 1


def test_icp_without_a_partner_moves_nothing():
    found = icp(np.zeros((5, 3)), np.full((4, 3), 9.0), 0.1)
    assert (found.fitness, found.inlier_rmse) == (0, 0)
    np.testing.assert_array_equal(found.motion.apply(np.ones((1, 3))), [[1, 1, 1]])


def test_normals_of_a_sphere_are_its_radii():
    points = sphere(4000)
    assert np.abs((normals(points) * points).sum(1)).min() > 0.97


def test_few_points_and_points_in_one_place_have_finite_normals():
    assert np.isfinite(normals(RNG.normal(size=(3, 3)))).all()
    np.testing.assert_array_equal(normals(np.ones((40, 3))), np.zeros((40, 3)))


def test_distances_equal_brute_force_and_their_closed_form():
    truth, predicted = RNG.uniform(size=(90, 3)), RNG.uniform(size=(70, 3))
    distances = np.linalg.norm(predicted[:, None] - truth[None], axis=-1)
    errors = surface_errors(predicted, truth)
    assert (errors.acc_mean, errors.acc_med) == pytest.approx((distances.min(1).mean(), np.median(distances.min(1))))
    assert (errors.comp_mean, errors.comp_med) == pytest.approx((distances.min(0).mean(), np.median(distances.min(0))))
    score = fscore(predicted, truth, 0.1)
    precision, recall = (distances.min(1) < 0.1).mean(), (distances.min(0) < 0.1).mean()
    assert score == pytest.approx((precision, recall, 2 * precision * recall / (precision + recall)))
    assert fscore(predicted, truth + 9, 0.1) == (0, 0, 0)


def test_planes_at_an_angle_agree_by_its_cosine():
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 20), np.linspace(-1, 1, 20)), -1).reshape(-1, 2)
    flat = np.column_stack([grid, np.zeros(len(grid))])
    tilted = Rotation.from_euler("x", 60, degrees=True).apply(flat)
    assert surface_errors(tilted, flat).nc_mean == pytest.approx(0.5)
    assert surface_errors(flat, flat)[:5] == pytest.approx((0, 0, 0, 0, 1))


def test_empty_clouds_are_refused():
    for measure in (surface_errors, lambda a, b: fscore(a, b, 0.1)):
        with pytest.raises(InputError, match=r"with points, got \(0, 3\)"):
            measure(np.zeros((0, 3)), np.zeros((4, 3)))
    with pytest.raises(InputError, match="got none"):
        match_medians(np.zeros((0, 3)), np.zeros((0, 3)))


def dtu_surface():
    arrays = np.load(FOLDER / "points_dtu_protocol.npz")
    surface = DtuSurface(
        arrays["stl"].astype(np.float64),
        arrays["P"].reshape(4),
        arrays["ObsMask"] > 0,
        arrays["BB"],
        float(arrays["Res"]),
    )
    return arrays["data"], surface


def test_dtus_own_measure_equals_its_published_evaluation():
    recorded = RECORDED["dtu_protocol"]
    errors = cloud_errors(*dtu_surface())
    assert errors.accuracy == pytest.approx(recorded["returned_first"], rel=1e-5)
    assert errors.completeness == pytest.approx(recorded["returned_second"], rel=1e-5)
    assert errors.overall == pytest.approx(recorded["returned_third_overall"], rel=1e-5)


def test_dtus_files_are_read_where_dtu_puts_them(tmp_path):
    import trimesh
    from scipy.io import savemat

    cloud, surface = dtu_surface()
    with pytest.raises(InputError, match=r"stl007_total\.ply isn't there"):
        DtuSurface.read(tmp_path, 7)
    masks = tmp_path / "SampleSet" / "MVS Data" / "ObsMask"
    stl = tmp_path / "Points" / "stl"
    masks.mkdir(parents=True)
    stl.mkdir(parents=True)
    (stl / "stl007_total.ply").write_bytes(b"not a cloud")
    (masks / "ObsMask7_10.mat").write_bytes(b"nor a mask")
    (masks / "Plane7.mat").write_bytes(b"")
    with pytest.raises(InputError, match="damaged"):
        DtuSurface.read(tmp_path, 7)
    trimesh.PointCloud(surface.points).export(stl / "stl007_total.ply")
    savemat(masks / "ObsMask7_10.mat", {"ObsMask": surface.mask, "BB": surface.corner, "Res": surface.step})
    savemat(masks / "Plane7.mat", {"P": surface.plane[:, None]})
    assert cloud_errors(cloud, DtuSurface.read(tmp_path, 7)) == pytest.approx(cloud_errors(cloud, surface), rel=1e-5)


def test_a_cloud_far_from_dtus_surface_is_refused():
    _, surface = dtu_surface()
    with pytest.raises(InputError, match="none within 20 mm"):
        cloud_errors(np.full((10, 3), 1e6), surface)
