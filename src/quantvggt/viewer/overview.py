"""Where a scene is first looked at from, the same on the page and in the live viewer."""

import numpy as np
from numpy.typing import NDArray

from quantvggt.reconstruction.geometry import camera_centres, upright_axes
from quantvggt.reconstruction.scene import Scene

Vector = NDArray[np.float64]


def overview(scene: Scene, points: NDArray[np.float32]) -> tuple[Vector, Vector]:
    """Eye and target in the world: behind the first camera, a little above; far enough to see most points [N, 3]."""
    up = upright_axes(scene.extrinsics)[2]
    target = np.median(points, axis=0).astype(np.float64)
    away = camera_centres(scene.extrinsics[:1])[0] - target
    level = away - (away @ up) * up
    direction = level / max(float(np.linalg.norm(level)), 1e-9) + 0.45 * up
    spread = np.percentile(np.linalg.norm(points - target, axis=1), 90)
    distance = max(1.75 * np.linalg.norm(away), 1.6 * spread)
    return target + distance * direction / np.linalg.norm(direction), target
