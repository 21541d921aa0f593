"""What a model says about one clip."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Prediction:
    """What a model says about one clip, float32.

    extrinsics: world-to-camera [S, 3, 4] (OpenCV, world = first camera); intrinsics: [S, 3, 3] in pixels;
    depth: [D, H, W] z-depth of the first D frames, D = S unless fewer were asked for; points: [D, H, W, 3], the
    point head's map, or the depth unprojected through the predicted cameras where the model has no point head.
    """

    extrinsics: NDArray[np.float32]
    intrinsics: NDArray[np.float32]
    depth: NDArray[np.float32]
    points: NDArray[np.float32]
