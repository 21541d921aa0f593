"""What of a truth counts."""

import numpy as np
import torch
from numpy.typing import NDArray

from quantvggt.evaluate.prediction import Prediction
from quantvggt.scenes.clip import GroundTruth


def valid_pixels(prediction: Prediction, truth: GroundTruth) -> NDArray[np.bool_]:
    """bool [D, H, W]: the pixels that a benchmark counts, of the frames whose depth was predicted."""
    shown = len(prediction.depth)
    deep = truth.depth[:shown].numpy() > 0
    return deep if truth.valid is None else deep & truth.valid[:shown].numpy()


def lack_of_poses(truth: GroundTruth) -> str | None:
    """Why cameras can't be measured; None if they can."""
    return None if torch.isfinite(truth.extrinsics).all() else "the truth has no poses"


def lack_of_points(truth: GroundTruth) -> str | None:
    """Why depth can't be unprojected to points; None if it can."""
    return lack_of_poses(truth) or (None if torch.isfinite(truth.intrinsics).all() else "the truth has no intrinsics")


def lack_of_depth(counted: NDArray[np.bool_], where: str = "") -> str | None:
    """Why nothing can be measured of the pixels that count; None if something can."""
    return None if counted.any() else f"the truth has no depth{where}"
