"""How a scene is drawn, the same in every format: camera colours, camera size, depth colours."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from quantvggt.reconstruction.scene import Scene

# Far to near, dark to light, evenly in lightness; also read left to right as first to last frame.
_RAMP = np.array(
    [
        [22, 16, 62],
        [72, 22, 110],
        [130, 37, 118],
        [190, 58, 100],
        [234, 98, 76],
        [250, 158, 74],
        [252, 232, 150],
    ],
    np.float64,
)


def ramp(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Values in [0, 1], any shape -> RGB colours [..., 3], dark at 0."""
    places = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(values, places, _RAMP[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def camera_colours(count: int) -> list[tuple[int, int, int]]:
    """One colour per frame, in order, all of middle lightness so they are seen on black and on white."""
    return [tuple(colour) for colour in ramp(np.linspace(0.4, 0.8, count)).tolist()]


def frustum_length(scene: "Scene") -> float:
    """How deep a camera's pyramid is drawn: a small part of the typical distance to what it sees."""
    seen = scene.depth[scene.depth > 0]
    return 0.1 * float(np.median(seen)) if seen.size else 0.1
