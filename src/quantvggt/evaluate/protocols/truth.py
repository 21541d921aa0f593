"""What of a truth counts."""

import numpy as np
from numpy.typing import NDArray

from quantvggt.evaluate.prediction import Prediction
from quantvggt.scenes.clip import GroundTruth


def valid_pixels(prediction: Prediction, truth: GroundTruth) -> NDArray[np.bool_]:
    """bool [D, H, W]: the pixels that a benchmark counts, of the frames whose depth was predicted."""
    shown = len(prediction.depth)
    deep = truth.depth[:shown].numpy() > 0
    return deep if truth.valid is None else deep & truth.valid[:shown].numpy()


def no_depth(where: str = "") -> str:
    """Why there are no numbers of depth or points."""
    return f"the truth has no depth{where}"
