"""Protocols: the truth is perfect in each of them, nothing finite is lost, and pooling is the recorded one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from quantvggt.core.errors import InputError
from quantvggt.evaluate.metrics.pose import auc, pose_errors
from quantvggt.evaluate.prediction import Prediction
from quantvggt.evaluate.protocols.depth import DepthMaps
from quantvggt.evaluate.protocols.points import RelativePoints, SurfacePoints
from quantvggt.evaluate.protocols.published import PROTOCOLS, default_protocol, find_protocol
from quantvggt.evaluate.protocols.trajectory import Trajectory
from quantvggt.reconstruction.geometry import unproject
from quantvggt.scenes.clip import Clip, GroundTruth
from quantvggt.scenes.datasets import DATASETS
from quantvggt.scenes.synthetic import make_clips

FOLDER = Path(__file__).parents[1] / "golden" / "datasets"
CLIP, OTHER = make_clips([9_600_000, 9_600_001], frames=4, size=56)
MODES = ["pairs", "category", "scene"]


def oracle(clip, unit=0.3):
    """The truth, in the frame of the first camera and another unit of length."""
    truth = clip.truth
    full = torch.eye(4, dtype=torch.float64).repeat(len(truth.extrinsics), 1, 1)
    full[:, :3] = truth.extrinsics
    local = (full @ full[0].inverse())[:, :3]
    local[:, :, 3] *= unit
    local, depth, lens = (x.numpy().astype(np.float32) for x in (local, truth.depth * unit, truth.intrinsics))
    return Prediction(local, lens, depth, unproject(depth, local, lens))


def spoiled(clip, value):
    return Prediction(*(np.full_like(part, value) for part in vars(oracle(clip)).values()))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_truth_is_perfect_in_any_world_frame_and_unit(name):
    protocol = PROTOCOLS[name]
    scenes = {"a": protocol.measure(oracle(CLIP), CLIP), "b": protocol.measure(oracle(OTHER), OTHER)}
    row = protocol.summarise(json.loads(json.dumps(scenes, allow_nan=False)), {"a": "chair", "b": "table"})
    assert scenes["a"]["absent"] == {}
    perfect = {"nc_mean": 1, "nc_med": 1, "precision": 1, "recall": 1, "fscore": 1, "depth_delta1": 1}
    for key, value in row.items():
        expected = 1 if key.startswith("auc") else perfect.get(key, 0)
        assert value == pytest.approx(expected, abs=2e-3), key
    kinds = {"auc30": protocol.relpose, "depth_absrel": protocol.depth, "ate": protocol.trajectory}
    assert all((key in row) == (part is not None) for key, part in kinds.items())


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_prediction_that_is_not_finite_counts_as_bad_and_stays_json(name):
    protocol = PROTOCOLS[name]
    for value in (np.nan, np.inf, 0.0):
        row = protocol.summarise({"a": protocol.measure(spoiled(CLIP, value), CLIP)})
        json.dumps(row, allow_nan=False)
        if protocol.relpose is not None and value:
            assert row["auc30"] == 0
        if protocol.depth is not None:
            assert row["depth_absrel"] == pytest.approx(1, abs=0.2)
        if "acc_mean" in row:
            assert (row["comp_mean"] > 0.1, row["nc_mean"]) == (True, 0)


def test_a_scene_without_what_a_number_needs_says_so():
    everything = replace(PROTOCOLS["colmap"], points=SurfacePoints("similarity", 0.1), depth=DepthMaps("median"))
    truth = CLIP.truth
    blind = replace(CLIP, truth=replace(truth, depth=torch.zeros_like(truth.depth)))
    found = everything.measure(oracle(CLIP), blind)
    assert found["absent"] == {"points": "the truth has no depth", "depth": "the truth has no depth"}
    assert set(everything.summarise({"a": found})) == {
        "auc30", "auc15", "auc5", "auc3", "ate", "rpe_translation", "rpe_rotation_deg",
    }  # fmt: skip

    single = Clip(
        CLIP.images[:1], CLIP.names[:1], {}, GroundTruth(*(x[:1] for x in vars(truth).values() if x is not None))
    )
    first = Prediction(*(part[:1] for part in vars(oracle(CLIP)).values()))
    assert everything.measure(first, single)["absent"] == {
        "pose": "one frame makes no pair",
        "trajectory": "1 frames fit any trajectory up to a similarity; 3 or more are needed",
    }
    still = replace(CLIP, truth=replace(truth, extrinsics=truth.extrinsics[:1].repeat(4, 1, 1)))
    assert "stands still" in everything.measure(oracle(CLIP), still)["absent"]["trajectory"]
    unknown = replace(CLIP, truth=replace(truth, extrinsics=torch.full_like(truth.extrinsics, torch.nan)))
    absent = everything.measure(oracle(CLIP), unknown)["absent"]
    assert absent == dict.fromkeys(("pose", "points", "trajectory"), "the truth has no poses")
    with pytest.raises(InputError, match="no ground truth"):
        everything.measure(oracle(CLIP), Clip(CLIP.images, CLIP.names))
    assert everything.summarise({}) == {}


def test_only_valid_pixels_within_the_crop_count():
    valid = torch.zeros(CLIP.truth.depth.shape, dtype=torch.bool)
    valid[:, 14:42, 14:42] = True
    masked = replace(CLIP, truth=replace(CLIP.truth, valid=valid))
    wrong = oracle(CLIP)
    wrong.points[~valid.numpy()] = 7.0
    wrong.depth[~valid.numpy()] = 7.0
    for part in (
        SurfacePoints("similarity", 0.1),
        SurfacePoints("medians", 0.1),
        RelativePoints(),
        DepthMaps("median"),
    ):
        assert min(part.measure(wrong, masked.truth).values()) < 1e-4
        assert next(iter(part.measure(wrong, CLIP.truth).values())) > 1e-3
    edge = replace(CLIP, truth=replace(CLIP.truth, valid=~valid))
    assert (
        SurfacePoints("medians", 0.1, crop=28).lacks(wrong, edge.truth)
        == "the truth has no depth in the central 28 pixels"
    )


def test_points_come_from_where_the_protocol_says():
    wrong = oracle(CLIP)
    wrong.points[:] = np.random.default_rng(0).normal(size=wrong.points.shape)
    assert SurfacePoints("similarity", 0.1, source="depth").measure(wrong, CLIP.truth)["acc_mean"] < 1e-4
    assert SurfacePoints("similarity", 0.1).measure(wrong, CLIP.truth)["acc_mean"] > 0.1


def test_what_was_not_predicted_is_not_measured():
    whole = oracle(CLIP)
    some = replace(whole, depth=whole.depth[:2], points=whole.points[:2])
    for part in (SurfacePoints("similarity", 0.1, source="depth"), RelativePoints(), DepthMaps("median")):
        assert min(part.measure(some, CLIP.truth).values()) < 1e-4
    assert DepthMaps("median").measure(some, CLIP.truth)["depth_pixels"] == int((CLIP.truth.depth[:2] > 0).sum())


def test_far_truth_does_not_count_and_predictions_are_cut():
    far = float(CLIP.truth.depth[CLIP.truth.depth > 0].median())
    limited = DepthMaps("none", far=far, clip=far)
    truth = CLIP.truth.depth.numpy()
    high = replace(oracle(CLIP, unit=1.0), depth=np.full_like(truth, 1e9))
    near = truth[(truth > 0) & (truth < far)]
    found = limited.measure(high, CLIP.truth)
    assert found["depth_pixels"] == near.size
    assert found["depth_absrel"] == pytest.approx((far / near.astype(np.float64) - 1).mean())


RELPOSE = {
    form: json.loads((FOLDER / "relpose_scalars.json").read_text())[f"aggregate_{name}"]
    for form, name in (
        ("quantvggt", "a_first_aligned_inv_i_times_j"),
        ("vggt", "b_i_times_inv_j"),
        ("pi3", "c_j_times_inv_i"),
    )
}
RECORDED_POOLING = {"pairs": "all_pairs_pooled", "category": "mean_over_categories", "scene": "mean_over_sequences"}


@pytest.mark.parametrize("pooling", MODES)
@pytest.mark.parametrize("form", RELPOSE)
def test_pooling_equals_the_published_evaluation(form, pooling):
    protocol = replace(PROTOCOLS["co3d-vggt"], relpose=form, pooling=pooling)
    poses = np.load(FOLDER / "relpose_inputs.npz")
    scenes = {}
    for number in "012":
        errors = pose_errors(poses[f"pred_w2c_{number}"][:, :3], poses[f"gt_w2c_{number}"][:, :3], form)
        scenes[number] = {"rotation_deg": errors[0].tolist(), "direction_deg": errors[1].tolist(), "absent": {}}
    row = protocol.summarise(scenes, {"0": "apple", "1": "apple", "2": "bottle"})
    assert row == pytest.approx(RELPOSE[form][RECORDED_POOLING[pooling]], abs=1e-12)


def test_a_resample_counts_a_scene_as_often_as_it_is_named():
    protocol = replace(PROTOCOLS["synthetic"], pooling="scene", relpose="vggt")
    scenes = {
        "good": {"rotation_deg": [0.5], "direction_deg": [0.0], "depth": {"depth_absrel": 0.1, "depth_pixels": 1}},
        "bad": {"rotation_deg": [90.0], "direction_deg": [0.0], "depth": {"depth_absrel": 0.4, "depth_pixels": 9}},
    }
    row = protocol.summarise(scenes, names=["good", "good", "bad"])
    assert row["auc3"] == pytest.approx(2 / 3)
    assert row["depth_absrel"] == pytest.approx(0.2)
    assert protocol.summarise(scenes)["depth_absrel"] == pytest.approx(0.25)
    weighted = replace(protocol, depth=DepthMaps("median", weighted=True))
    assert weighted.summarise(scenes)["depth_absrel"] == pytest.approx(0.37)


def test_video_depth_is_weighted_by_pixels_as_published():
    arrays = np.load(FOLDER / "depth_inputs.npz")
    recorded = json.loads((FOLDER / "depth_scalars.json").read_text(encoding="utf-8"))
    part = DepthMaps("lower-median", weighted=True)
    frames = []
    for name, far in (("A", 70.0), ("B", None)):
        for depth, true in zip(arrays[f"pred_{name}"], arrays[f"gt_{name}"], strict=True):
            truth = GroundTruth(torch.eye(3, 4)[None], torch.eye(3)[None], torch.from_numpy(true[None].clip(0)))
            prediction = Prediction(np.eye(3, 4)[None], np.eye(3)[None], depth[None], np.zeros((1, *depth.shape, 3)))
            frames.append(replace(part, far=far).measure(prediction, truth))
    row, expected = part.summarise(frames), recorded["weighted_average_over_5_frames_median_scale"]
    assert row["depth_absrel"] == pytest.approx(expected["Abs Rel"], rel=1e-5)
    assert row["depth_delta1"] == pytest.approx(expected["δ < 1.25"], rel=1e-5)
    assert "depth_pixels" not in row


def test_the_mean_of_sequences_is_the_recorded_trajectory_row():
    arrays = np.load(FOLDER / "trajectories.npz")
    recorded = json.loads((FOLDER / "trajectory_scalars.json").read_text())["average_of_traj1_traj2"]
    part, scenes = Trajectory(), []
    for number in "12":
        predicted, true = (np.linalg.inv(arrays[f"{kind}{number}_c2w"])[:, :3] for kind in ("pred", "gt"))
        truth = GroundTruth(torch.from_numpy(true), torch.zeros(len(true), 3, 3), torch.zeros(len(true), 1, 1))
        nothing = np.zeros((len(true), 1, 1))
        scenes.append(part.measure(Prediction(predicted, nothing, nothing, nothing), truth))
    row = part.summarise(scenes)
    expected = {"ate": "ate", "rpe_translation": "rpe_trans", "rpe_rotation_deg": "rpe_rot_deg"}
    assert row == pytest.approx({ours: recorded[theirs] for ours, theirs in expected.items()}, abs=1e-6)


def test_protocols_are_found_by_name_by_dataset_and_by_form():
    assert find_protocol("co3d-vggt").relpose == default_protocol("co3d").relpose == "vggt"
    assert default_protocol("synthetic").name == "synthetic"
    assert default_protocol("co3d", "quantvggt") is PROTOCOLS["co3d-quantvggt"]
    assert default_protocol("co3d", "pi3") is PROTOCOLS["co3d-pi3"]
    assert default_protocol("synthetic", "quantvggt") == replace(PROTOCOLS["synthetic"], relpose="quantvggt")
    with pytest.raises(InputError, match="unknown protocol 'co3d'; use one of: synthetic, colmap, co3d-vggt"):
        find_protocol("co3d")
    own = default_protocol("arrays")
    assert (own.name, own.dataset, own.parts) == ("arrays", "arrays", PROTOCOLS["synthetic"].parts)


def test_every_protocol_says_where_it_comes_from_and_measures_something():
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert protocol.about.endswith(".")
        assert protocol.parts or protocol.relpose
        assert protocol.split in getattr(DATASETS[protocol.dataset], "splits", {"test": ()})


def test_every_protocol_is_in_the_documentation():
    documented = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert [name for name in PROTOCOLS if f"`{name}`" not in documented] == []


def test_the_study_form_changes_the_auc_alone():
    turned = oracle(CLIP)
    turned.extrinsics[2] = turned.extrinsics[2] @ np.diag([1, 1, 1, 1.0]) + 0.02
    rows = [
        protocol.summarise({"a": protocol.measure(turned, CLIP)})
        for protocol in (PROTOCOLS["synthetic"], default_protocol("synthetic", "quantvggt"))
    ]
    assert rows[0]["auc3"] == auc(*pose_errors(turned.extrinsics, CLIP.truth.extrinsics, "vggt"), 3)
    assert rows[1]["auc3"] == auc(*pose_errors(turned.extrinsics, CLIP.truth.extrinsics, "quantvggt"), 3)
    assert {k: v for k, v in rows[0].items() if "auc" not in k} == {k: v for k, v in rows[1].items() if "auc" not in k}
