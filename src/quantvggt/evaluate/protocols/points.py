"""Point maps as benchmarks measure them: as surfaces in the truth's unit, and as ours, relative to the distance."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.similarity import umeyama
from quantvggt.evaluate.metrics.alignment import icp, match_medians
from quantvggt.evaluate.metrics.points import point_errors
from quantvggt.evaluate.metrics.surface import fscore, surface_errors
from quantvggt.evaluate.prediction import Prediction
from quantvggt.evaluate.protocols.contract import Part, Values
from quantvggt.evaluate.protocols.truth import lack_of_depth, lack_of_points, valid_pixels
from quantvggt.reconstruction.geometry import camera_centres, to_camera, unproject
from quantvggt.scenes.clip import GroundTruth


@dataclass(frozen=True)
class SurfacePoints(Part):
    """`surface_errors` of all valid pixels' points, one cloud a scene, in the truth's unit.

    alignment: of predicted points to the true points of the same pixels, "similarity" by `umeyama` or "medians" by
    `match_medians`, in the first camera's frame; then rigidly by `icp`, to partners nearer than this.
    source: the point "head", or "depth" unprojected through the predicted cameras.
    crop: after the alignment only the central square of so many pixels counts, None: all.
    within: adds precision, recall and F-score at this distance.
    """

    alignment: Literal["similarity", "medians"]
    icp: float
    source: Literal["head", "depth"] = "head"
    crop: int | None = None
    within: float | None = None

    def lacks(self, prediction: Prediction, truth: GroundTruth) -> str | None:
        counted = self._cropped(valid_pixels(prediction, truth))
        where = "" if self.crop is None else f" in the central {self.crop} pixels"
        return lack_of_points(truth) or lack_of_depth(counted, where)

    def measure(self, prediction: Prediction, truth: GroundTruth) -> Values:
        valid = valid_pixels(prediction, truth)
        target = _true_points(prediction, truth).astype(np.float64)
        source = self._predicted_points(prediction).astype(np.float64)
        source = np.where(np.isfinite(source).all(-1, keepdims=True), source, 0.0)
        if self.alignment == "medians":
            target = to_camera(target, truth.extrinsics[0].numpy())
        fitted = {"similarity": umeyama, "medians": match_medians}[self.alignment](source[valid], target[valid])
        counted = self._cropped(valid)
        moved, true = fitted.apply(source[counted]), target[counted]
        moved = icp(moved, true, self.icp).motion.apply(moved)
        found = surface_errors(moved, true)._asdict()
        return found if self.within is None else {**found, **fscore(moved, true, self.within)._asdict()}

    def _predicted_points(self, prediction: Prediction) -> NDArray[np.float32]:
        if self.source == "head":
            return prediction.points
        shown = len(prediction.depth)
        with np.errstate(invalid="ignore"):
            singular = np.linalg.det(prediction.intrinsics[:shown]) == 0
        lenses = np.where(singular[:, None, None], np.float32(np.nan), prediction.intrinsics[:shown])
        return unproject(prediction.depth, prediction.extrinsics[:shown], lenses)

    def _cropped(self, valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if self.crop is None:
            return valid
        rows, columns = (
            slice(max(0, side // 2 - self.crop // 2), side // 2 + self.crop // 2) for side in valid.shape[1:]
        )
        kept = np.zeros_like(valid)
        kept[:, rows, columns] = valid[:, rows, columns]
        return kept


@dataclass(frozen=True)
class RelativePoints(Part):
    """`point_errors`: after the best similarity, relative to the mean viewing distance; no unit."""

    def lacks(self, prediction: Prediction, truth: GroundTruth) -> str | None:
        return lack_of_points(truth) or lack_of_depth(valid_pixels(prediction, truth))

    def measure(self, prediction: Prediction, truth: GroundTruth) -> Values:
        origin = camera_centres(truth.extrinsics.numpy())[0]
        errors = point_errors(
            prediction.points, _true_points(prediction, truth), valid_pixels(prediction, truth), origin
        )
        return {
            "point_error": errors.error,
            "point_accuracy": errors.accuracy,
            "point_completeness": errors.completeness,
        }


def _true_points(prediction: Prediction, truth: GroundTruth) -> NDArray[np.float32]:
    shown = len(prediction.depth)
    depth, extrinsics, intrinsics = (part[:shown].numpy() for part in (truth.depth, truth.extrinsics, truth.intrinsics))
    return unproject(depth, extrinsics, intrinsics)
