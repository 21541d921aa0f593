"""Depth maps as benchmarks measure them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quantvggt.evaluate.metrics.depth import DepthAlignment, depth_errors
from quantvggt.evaluate.prediction import Prediction
from quantvggt.evaluate.protocols.contract import Part, Values
from quantvggt.evaluate.protocols.truth import lack_of_depth, valid_pixels
from quantvggt.scenes.clip import GroundTruth


@dataclass(frozen=True)
class DepthMaps(Part):
    """`depth_errors` of all valid pixels of a scene, aligned once.

    far: true depth from here on doesn't count; clip: aligned predictions are cut to this. weighted: a table's numbers
    are means over scenes weighted by their pixels, not plain ones.
    """

    alignment: DepthAlignment
    far: float | None = None
    clip: float | None = None
    weighted: bool = False

    def lacks(self, prediction: Prediction, truth: GroundTruth) -> str | None:
        return lack_of_depth(self._valid(prediction, truth))

    def measure(self, prediction: Prediction, truth: GroundTruth) -> Values:
        true = truth.depth[: len(prediction.depth)].numpy()
        errors = depth_errors(prediction.depth, true, self._valid(prediction, truth), self.alignment, self.clip)
        return {f"depth_{name}": value for name, value in errors._asdict().items()}

    def summarise(self, scenes: Sequence[Values]) -> Values:
        weights = [scene["depth_pixels"] if self.weighted else 1.0 for scene in scenes]
        return {
            key: float(np.average([scene[key] for scene in scenes], weights=weights))
            for key in scenes[0]
            if key != "depth_pixels"
        }

    def _valid(self, prediction: Prediction, truth: GroundTruth) -> np.ndarray:
        valid = valid_pixels(prediction, truth)
        return valid if self.far is None else valid & (truth.depth[: len(valid)].numpy() < self.far)
