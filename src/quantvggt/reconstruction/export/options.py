"""What an export may be asked for, in one value."""

from dataclasses import dataclass, fields
from typing import Any

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.fuse import check_voxel
from quantvggt.reconstruction.points import MIN_CONFIDENCE, check_selection

SIZES = ("original", "network")
MODELS = ("both", "text", "binary")


@dataclass(frozen=True)
class ExportOptions:
    """How scenes are written, the same for every format that has a use for it.

    min_confidence, max_points, seed: which points, see `select_points`. clean: without depth edges and floaters; voxel:
    the edge within which points are merged, in the scene's unit, None for a pixel's footprint, 0 to merge nothing; see
    `fuse`.
    size: cameras and pictures of colmap and nerfstudio at the size of the user's pictures, "original" (where the scene
    comes from files), or as the model saw them, "network". shared_camera: one camera for all pictures, with the median
    focal lengths. colmap: "text" or "binary" model, or "both". depth_size: like size, of the depth PNGs. mesh: the GLB
    has a mesh per frame instead of points.
    Raises InputError for a value that none of these has.
    """

    min_confidence: float = MIN_CONFIDENCE
    max_points: int | None = None
    seed: int = 0
    clean: bool = True
    voxel: float | None = None
    size: str = "original"
    shared_camera: bool = False
    colmap: str = "both"
    depth_size: str = "network"
    mesh: bool = False

    def __post_init__(self) -> None:
        for name, known in (("size", SIZES), ("depth_size", SIZES), ("colmap", MODELS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; choose one of: {', '.join(known)}")
        check_selection(self.min_confidence, self.max_points)
        check_voxel(self.voxel)


def make_options(**values: Any) -> ExportOptions:
    """Raises InputError for a field that there is none of, or a value out of range."""
    known = [field.name for field in fields(ExportOptions)]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise InputError(f"export has no option {unknown[0]!r}; it has: {', '.join(known)}")
    return ExportOptions(**values)
