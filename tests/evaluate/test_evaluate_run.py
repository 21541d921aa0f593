"""predict, score and evaluate: perfect answers score perfectly, and every row has the keys of the contract."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from quantvggt.core.errors import InputError
from quantvggt.evaluate.run import evaluate, predict, score
from quantvggt.models import VGGT, Answers, VGGTConfig
from quantvggt.reconstruction.geometry import unproject
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.synthetic import make_clips

KEYS = [
    "model",
    "method",
    "scheme",
    "seed",
    "checkpoint_bytes",
    "protocol",
    "relpose",
    "auc30",
    "auc15",
    "auc5",
    "auc3",
    "depth_absrel",
    "point_error",
    "point_accuracy",
    "point_completeness",
    "depth_sqrel",
    "depth_rmse",
    "depth_log_rmse",
    "depth_delta1",
    "drift_rotation_deg",
    "drift_translation_deg",
    "drift_depth",
]
LABELS = {"name": "tiny", "method": "rtn", "scheme": "w4a4", "seed": 3, "checkpoint_bytes": 1234}
CLIPS = make_clips([9_500_000, 9_500_001], frames=4, size=56)


class Oracle:
    """Answers with the truth of `CLIPS`, in the frame of the first camera and another unit of length."""

    device = torch.device("cpu")

    def __init__(self, heads=("camera", "depth", "point"), unit=0.3, turn=0.0):
        self.heads, self.unit, self.turn = heads, unit, turn

    def answers(self, images, dense=None):
        truth = next(clip.truth for clip in CLIPS if torch.equal(clip.images, images[0]))
        full = torch.eye(4).repeat(len(truth.extrinsics), 1, 1)
        full[:, :3] = truth.extrinsics
        local = (full @ full[0].inverse())[:, :3]
        local[:, :, 3] *= self.unit
        depth = truth.depth * self.unit
        points = torch.from_numpy(unproject(depth.numpy(), local.numpy(), truth.intrinsics.numpy()))
        angle = torch.tensor(self.turn).deg2rad()
        cos, sin = angle.cos(), angle.sin()
        local[1:] = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ local[1:]
        return Answers(
            tuple(images.shape[-2:]),
            extrinsics=local[None],
            intrinsics=truth.intrinsics[None],
            depth=depth[None],
            points=points[None] if "point" in self.heads else None,
        )


def tiny_vggt(heads=("camera", "depth", "point")):
    torch.manual_seed(0)
    config = VGGTConfig(
        img_size=56, embed_dim=32, depth=2, num_heads=2, patch_embed="conv", camera_trunk_depth=1,
        camera_num_heads=2, dpt_features=16, dpt_out_channels=(8, 8, 16, 16), dpt_layers=(0, 0, 1, 1),
        heads=heads,
    )  # fmt: skip
    return VGGT(config).eval()


@pytest.mark.parametrize("heads", [("camera", "depth", "point"), ("camera", "depth")])
def test_the_truth_scores_perfectly_in_any_world_frame_and_unit(heads):
    row = evaluate(Oracle(heads), CLIPS, predict(Oracle(heads), CLIPS, progress=False), **LABELS, progress=False)
    assert list(row) == KEYS
    assert (row["model"], row["method"], row["scheme"], row["seed"], row["checkpoint_bytes"]) == tuple(LABELS.values())
    assert [row[f"auc{threshold}"] for threshold in (30, 15, 5, 3)] == [1, 1, 1, 1]
    assert max(row["depth_absrel"], row["point_error"]) < 1e-5
    assert max(row["drift_rotation_deg"], row["drift_translation_deg"], row["drift_depth"]) < 1e-9


def test_drift_that_was_not_measured_is_none_and_the_float_models_own_is_zero():
    predictions = predict(Oracle(), CLIPS, progress=False)
    drifts = [key for key in KEYS if key.startswith("drift")]
    unknown = score(predictions, CLIPS, None, **LABELS)
    own = score(predictions, CLIPS, None, **(LABELS | {"method": "float", "scheme": "float32"}))
    assert [unknown[key] for key in drifts] == [None, None, None]
    assert [own[key] for key in drifts] == [0, 0, 0]
    assert list(unknown) == list(own) == KEYS


def test_drift_sees_what_a_known_turn_did():
    # All cameras but the first rolled by 2.5 degrees about their axes: the 3 of 6 pairs with the first are off by 2.5.
    reference = predict(Oracle(), CLIPS, progress=False)
    row = evaluate(Oracle(turn=2.5), CLIPS, reference, **LABELS, progress=False)
    assert 1 < row["drift_rotation_deg"] <= 2.5 + 1e-3
    assert row["auc3"] < 1
    assert row["drift_depth"] < 1e-6


def test_a_real_model_gives_a_finite_row_twice_the_same():
    model = tiny_vggt()
    rows = [evaluate(model, CLIPS, None, **LABELS, progress=False) for _ in range(2)]
    assert rows[0] == rows[1]
    json.dumps(rows[0], allow_nan=False)


def test_a_model_that_answers_nan_scores_worst_and_stays_json():
    model = tiny_vggt()
    reference = predict(model, CLIPS, progress=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    row = evaluate(model, CLIPS, reference, **LABELS, progress=False)
    json.dumps(row, allow_nan=False)
    assert row["auc30"] == 0
    assert row["depth_absrel"] == 1
    assert (row["drift_rotation_deg"], row["drift_translation_deg"]) == (180, 90)


def test_clips_run_at_once_answer_as_one_by_one():
    model, threads = tiny_vggt(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone, together = (predict(model, CLIPS, progress=False, workers=workers) for workers in (1, 2))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(alone, together, strict=True):
        assert (one.depth == other.depth).all()
        assert (one.extrinsics == other.extrinsics).all()


@pytest.mark.parametrize("heads", [("camera", "depth", "point"), ("camera", "depth")])
def test_fewer_dense_frames_answer_as_they_would_among_all(heads):
    model = tiny_vggt(heads)
    every, few = (predict(model, CLIPS, progress=False, dense_frames=frames) for frames in (None, 2))
    for one, other in zip(every, few, strict=True):
        assert len(other.extrinsics) == len(one.extrinsics) == 4
        assert len(other.depth) == len(other.points) == 2
        np.testing.assert_array_equal(other.extrinsics, one.extrinsics)
        np.testing.assert_allclose(other.depth, one.depth[:2], rtol=1e-5)
        np.testing.assert_allclose(other.points, one.points[:2], rtol=1e-4, atol=1e-5)


def test_what_was_not_predicted_is_not_judged():
    perfect = [*predict(Oracle(), CLIPS, progress=False)]
    spoiled = [
        replace(
            p,
            depth=np.concatenate([p.depth[:2], 7 + 0 * p.depth[2:]]),
            points=np.concatenate([p.points[:2], 0 * p.points[2:]]),
        )
        for p in perfect
    ]
    shown = [replace(p, depth=p.depth[:2], points=p.points[:2]) for p in spoiled]
    assert score(spoiled, CLIPS, perfect, **LABELS)["point_error"] > 0.1
    row = score(shown, CLIPS, shown, **LABELS)
    assert max(row["depth_absrel"], row["point_error"], row["point_accuracy"], row["point_completeness"]) < 1e-5


def test_progress_goes_to_stderr(capsys):
    predict(Oracle(), CLIPS, label="seeing")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "seeing" in captured.err


def test_unusable_models_and_clips_are_refused():
    with pytest.raises(InputError, match="no depth head"):
        predict(Oracle(heads=("camera",)), CLIPS)
    blind = [Clip(CLIPS[0].images, CLIPS[0].names)]
    predictions = predict(Oracle(), CLIPS[:1], progress=False)
    with pytest.raises(InputError, match="no ground truth"):
        score(predictions, blind, None, **LABELS)
    with pytest.raises(InputError, match="one prediction per clip"):
        score(predictions, CLIPS, None, **LABELS)
    with pytest.raises(InputError, match="one prediction per clip"):
        score([], [], None, **LABELS)
