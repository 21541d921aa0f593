"""DTU's own measure of a reconstructed cloud against the scanned surface, with the files that DTU gives out for it.

Jensen et al., "Large scale multi-view stereopsis evaluation", 2014; Aanaes et al., 2016. All lengths in millimetres.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from quantvggt.core.errors import InputError
from quantvggt.evaluate.metrics.nearest import nearest

Array = NDArray[np.float64]

DENSITY, MARGIN, FAR = 0.2, 60.0, 20.0
CHUNK = 100_000


@dataclass(frozen=True)
class DtuSurface:
    """A scan's truth: points [N, 3]; plane [4], above which they count (P . (x, 1) > 0); mask: bool [X, Y, Z], the
    voxels of side `step` that the scanner observed; corner [2, 3]: the mask's box, least and greatest coordinates."""

    points: Array
    plane: Array
    mask: NDArray[np.bool_]
    corner: Array
    step: float

    @classmethod
    def read(cls, root: Path, scan: int) -> "DtuSurface":
        """From DTU's folders in `root`: `Points/stl` and `SampleSet/MVS Data/ObsMask`.

        Raises InputError that names a file if it is missing, or if they are damaged.
        """
        import trimesh
        from scipy.io import loadmat

        masks = root / "SampleSet" / "MVS Data" / "ObsMask"
        files = (
            root / "Points" / "stl" / f"stl{scan:03}_total.ply",
            masks / f"ObsMask{scan}_10.mat",
            masks / f"Plane{scan}.mat",
        )
        for file in files:
            if not file.is_file():
                raise InputError(f"DTU's {file} isn't there; it comes with Points and SampleSet of DTU's MVS data")
        try:
            cloud: Any = trimesh.load(files[0], process=False)
            observed, plane = (loadmat(str(file)) for file in files[1:])
            return cls(
                points=np.asarray(cloud.vertices, np.float64),
                plane=np.asarray(plane["P"], np.float64).reshape(4),
                mask=np.asarray(observed["ObsMask"], bool),
                corner=np.asarray(observed["BB"], np.float64).reshape(2, 3),
                step=float(np.asarray(observed["Res"]).reshape(())),
            )
        except Exception as error:  # the readers raise anything on damaged files
            raise InputError(f"DTU's files of scan {scan} in {root} are damaged: {error}") from error


class CloudErrors(NamedTuple):
    """accuracy: mean distance from the cloud's observed points to the surface; completeness: from the surface to the
    cloud; overall: their mean. Distances of 20 mm and more don't count."""

    accuracy: float
    completeness: float
    overall: float


def cloud_errors(cloud: ArrayLike, surface: DtuSurface) -> CloudErrors:
    """DTU's measure of `cloud` [N, 3] in DTU's frame.

    The cloud is thinned to one point in 0.2 mm, in an order shuffled by seed 42; accuracy takes those of its points
    that lie in observed voxels, completeness the surface's points above the plane.

    Raises InputError if no point of the cloud is left, or none is nearer than 20 mm.
    """
    points = np.array(cloud, np.float64)
    np.random.default_rng(42).shuffle(points, axis=0)
    points = _thinned(points)
    low, high = surface.corner
    points = points[((points >= low - MARGIN) & (points < high + 2 * MARGIN)).all(1)]
    voxel = np.rint((points - low) / surface.step).astype(np.int64)
    inside = ((voxel >= 0) & (voxel < surface.mask.shape)).all(1)
    observed = points[inside][surface.mask[tuple(voxel[inside].T)]]
    above = surface.points[surface.points @ surface.plane[:3] + surface.plane[3] > 0]
    distances = []
    for start, end in ((observed, surface.points), (above, points)):
        distance = nearest(cKDTree(end), start)[0] if len(start) and len(end) else np.empty(0)
        distances.append(distance[distance < FAR])
    if not all(map(len, distances)):
        raise InputError(f"the cloud of {len(points)} points has none within {FAR:g} mm of the observed surface")
    accuracy, completeness = (float(distance.mean()) for distance in distances)
    return CloudErrors(accuracy, completeness, (accuracy + completeness) / 2)


def _thinned(points: Array) -> Array:
    """Each point that is left takes those within 0.2 mm of it away."""
    tree = cKDTree(points)
    left = np.ones(len(points), bool)
    for start in range(0, len(points), CHUNK):
        around = tree.query_ball_point(points[start : start + CHUNK], DENSITY)
        for place, near in enumerate(around, start):
            if left[place]:
                left[near] = False
                left[place] = True
    return points[left]
