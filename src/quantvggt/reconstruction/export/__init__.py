"""A Scene in other programs' formats: one file per format, one table of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.export.cameras import write_cameras
from quantvggt.reconstruction.export.colmap import write_colmap
from quantvggt.reconstruction.export.depth import write_depth
from quantvggt.reconstruction.export.glb import write_glb
from quantvggt.reconstruction.export.nerfstudio import write_nerfstudio
from quantvggt.reconstruction.export.npz import write_npz
from quantvggt.reconstruction.export.options import ExportOptions, make_options
from quantvggt.reconstruction.export.pictures import check_pictures
from quantvggt.reconstruction.export.ply import write_ply
from quantvggt.reconstruction.export.tum import write_tum
from quantvggt.reconstruction.export.views import make_views
from quantvggt.reconstruction.fuse import fuse
from quantvggt.reconstruction.points import PointCloud, select_points
from quantvggt.reconstruction.scene import Scene

__all__ = ["FORMATS", "ExportOptions", "Format", "check_formats", "export", "make_options", "points_of"]


@dataclass(frozen=True)
class Format:
    """file: the name of the file or folder in the scene's; write(scene, path), or write(scene, points, path) for a
    format `of_points`, which gets the points that were asked for. takes: the fields of `ExportOptions` that `write`
    is given by name."""

    file: str
    write: Callable[..., None]
    of_points: bool = False
    takes: tuple[str, ...] = ()


FORMATS = {
    "cameras": Format("cameras.json", write_cameras),
    "colmap": Format("colmap", write_colmap, of_points=True, takes=("size", "shared_camera", "colmap")),
    "depth": Format("depth", write_depth, takes=("depth_size",)),
    "glb": Format("scene.glb", write_glb, of_points=True, takes=("mesh", "min_confidence", "clean")),
    "npz": Format("scene.npz", write_npz),
    "ply": Format("points.ply", write_ply, of_points=True),
    "nerfstudio": Format("nerfstudio", write_nerfstudio, of_points=True, takes=("size", "shared_camera")),
    "tum": Format("trajectory.txt", write_tum),
}


def check_formats(formats: Iterable[str]) -> list[str]:
    """The formats without repetition; raises InputError if one is unknown or there are none."""
    formats = [formats] if isinstance(formats, str) else list(dict.fromkeys(formats))
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        asked = ", ".join(map(repr, unknown)) or "nothing"
        raise InputError(f"cannot export {asked}; the formats are: {', '.join(FORMATS)}")
    return formats


def points_of(scene: Scene, options: ExportOptions) -> PointCloud:
    """The points that formats of points are given: confident, merged, with tracks, without depth edges and floaters.

    Raises InputError if an option is out of range, or no point is left.
    """
    chosen = select_points(scene, options.min_confidence)
    return fuse(scene, chosen, options.clean, options.voxel, options.max_points, options.seed)


def export(
    scene: Scene,
    folder: Path,
    formats: Iterable[str],
    options: ExportOptions,
    overwrite: bool = False,
    cloud: PointCloud | None = None,
) -> dict[str, Path]:
    """See `Scene.export`. Everything that can be wrong with the request is checked before the first write.

    cloud: what `points_of` gives, for whoever has it already.
    """
    formats = check_formats(formats)
    targets = {name: folder / FORMATS[name].file for name in formats}
    existing = [str(path) for path in targets.values() if path.exists()]
    if existing and not overwrite:
        raise InputError(f"{', '.join(existing)} already exists; allow overwriting or choose another folder")
    if any("size" in FORMATS[name].takes for name in formats):
        check_pictures(make_views(scene, options.size, options.shared_camera))
    if cloud is None and any(FORMATS[name].of_points for name in formats):
        cloud = points_of(scene, options)
    for name, path in targets.items():
        wanted = (scene, cloud, path) if FORMATS[name].of_points else (scene, path)
        FORMATS[name].write(*wanted, **{option: getattr(options, option) for option in FORMATS[name].takes})
    return targets
