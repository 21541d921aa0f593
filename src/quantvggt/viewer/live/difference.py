"""How far each point of one scene is from the same pixel's point of another: float against quantized."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.errors import InputError
from quantvggt.core.similarity import Similarity, umeyama
from quantvggt.reconstruction.geometry import camera_centres
from quantvggt.reconstruction.scene import Scene
from quantvggt.reconstruction.style import ramp

UNKNOWN = (128, 128, 128)
"""The colour of points that the other scene lacks."""


@dataclass(frozen=True)
class Difference:
    """alignment: brings the other scene nearest to the reference. distance: float32 [S, H, W], from each pixel's point
    in the reference to the aligned other's, over the reference's mean viewing distance (0.02 reads as 2 %); NaN where
    one of them has no point. top: where the colours end, a round number above nine tenths of the distances."""

    alignment: Similarity
    distance: NDArray[np.float32]
    top: float

    @property
    def median(self) -> float:
        """Of all distances."""
        return float(np.nanmedian(self.distance))

    def colours(self, distance: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Distances, any shape -> RGB [..., 3]: dark is near, bright is `top` and beyond, grey is unknown."""
        known = np.isfinite(distance)
        colours = ramp(np.where(known, distance, 0).astype(np.float64) / self.top)
        colours[~known] = UNKNOWN
        return colours


def compare(reference: Scene, other: Scene) -> Difference:
    """Points are aligned by the similarity that fits those of which both scenes are the surer half.

    Raises InputError if the scenes aren't of the same frames, or have no pixel in common.
    """
    if reference.names != other.names or reference.size != other.size:
        raise InputError(
            f"the scenes are of different frames ({_frames(reference)} and {_frames(other)}); reconstruct the same "
            "photos twice to compare points"
        )
    ours, theirs = reference.points_conf, other.points_conf
    both = (ours > 0) & (theirs > 0)
    both &= np.isfinite(reference.points).all(-1) & np.isfinite(other.points).all(-1)
    if not both.any():
        raise InputError("the scenes have no pixel in common, so there is nothing to compare")
    sure = both & (ours >= np.median(ours[both])) & (theirs >= np.median(theirs[both]))
    chosen = sure if sure.any() else both
    alignment = umeyama(other.points[chosen], reference.points[chosen])
    target = reference.points[both].astype(np.float64)
    apart = np.linalg.norm(alignment.apply(other.points[both].astype(np.float64)) - target, axis=1)
    viewing = np.linalg.norm(target - camera_centres(reference.extrinsics[:1])[0], axis=1).mean()
    distance = np.full(both.shape, np.nan, np.float32)
    distance[both] = apart / viewing
    return Difference(alignment, distance, round_up(float(np.nanpercentile(distance, 90))))


def round_up(value: float) -> float:
    """The next of ..., 0.01, 0.02, 0.05, 0.1, ...; at least 0.0001."""
    value = max(value, 1e-4)
    step = 10.0 ** np.floor(np.log10(value) + 1e-9)
    return float(next(step * digit for digit in (1, 2, 5, 10) if step * digit >= value * (1 - 1e-6)))


def _frames(scene: Scene) -> str:
    height, width = scene.size
    return f"{len(scene.names)} of {width}x{height} from {scene.names[0]}"
