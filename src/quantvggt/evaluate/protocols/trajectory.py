"""Camera trajectories as benchmarks measure them."""

from dataclasses import dataclass

import numpy as np

from quantvggt.evaluate.metrics.trajectory import trajectory_errors
from quantvggt.evaluate.prediction import Prediction
from quantvggt.evaluate.protocols.contract import Part, Values
from quantvggt.evaluate.protocols.truth import lack_of_poses
from quantvggt.reconstruction.geometry import camera_centres
from quantvggt.scenes.clip import GroundTruth


@dataclass(frozen=True)
class Trajectory(Part):
    """`trajectory_errors`: ATE and RPE after the best similarity, lengths in the truth's unit."""

    def lacks(self, prediction: Prediction, truth: GroundTruth) -> str | None:
        if len(truth.extrinsics) < 3:
            return f"{len(truth.extrinsics)} frames fit any trajectory up to a similarity; 3 or more are needed"
        if reason := lack_of_poses(truth):
            return reason
        centres = camera_centres(truth.extrinsics.numpy())
        return None if np.ptp(centres, axis=0).any() else "the true camera stands still, so there is no trajectory"

    def measure(self, prediction: Prediction, truth: GroundTruth) -> Values:
        return trajectory_errors(prediction.extrinsics, truth.extrinsics.numpy())._asdict()
