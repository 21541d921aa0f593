"""A Scene in other programs' formats: one file per format, one table of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.export.cameras import write_cameras
from quantvggt.reconstruction.export.colmap import write_colmap
from quantvggt.reconstruction.export.depth import write_depth
from quantvggt.reconstruction.export.glb import write_glb
from quantvggt.reconstruction.export.npz import write_npz
from quantvggt.reconstruction.export.ply import write_ply
from quantvggt.reconstruction.points import select_points
from quantvggt.reconstruction.scene import Scene


@dataclass(frozen=True)
class Format:
    """file: the name of the file or folder in the scene's; write(scene, path), or write(scene, points, path) for a
    format `of_points`, which gets the points that were asked for."""

    file: str
    write: Callable[..., None]
    of_points: bool = False


FORMATS = {
    "cameras": Format("cameras.json", write_cameras),
    "colmap": Format("colmap", write_colmap, of_points=True),
    "depth": Format("depth", write_depth),
    "glb": Format("scene.glb", write_glb, of_points=True),
    "npz": Format("scene.npz", write_npz),
    "ply": Format("points.ply", write_ply, of_points=True),
}


def check_formats(formats: Iterable[str]) -> list[str]:
    """The formats without repetition; raises InputError if one is unknown or there are none."""
    formats = [formats] if isinstance(formats, str) else list(dict.fromkeys(formats))
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        asked = ", ".join(map(repr, unknown)) or "nothing"
        raise InputError(f"cannot export {asked}; the formats are: {', '.join(FORMATS)}")
    return formats


def export(
    scene: Scene,
    folder: Path,
    formats: Iterable[str],
    min_confidence: float,
    max_points: int | None,
    seed: int,
    overwrite: bool,
) -> dict[str, Path]:
    """See `Scene.export`. Everything that can be wrong with the request is checked before the first write."""
    formats = check_formats(formats)
    targets = {name: folder / FORMATS[name].file for name in formats}
    existing = [str(path) for path in targets.values() if path.exists()]
    if existing and not overwrite:
        raise InputError(f"{', '.join(existing)} already exists; allow overwriting or choose another folder")
    cloud = None
    if any(FORMATS[name].of_points for name in formats):
        cloud = select_points(scene, min_confidence, max_points, seed)
    for name, path in targets.items():
        wanted = (scene, cloud, path) if FORMATS[name].of_points else (scene, path)
        FORMATS[name].write(*wanted)
    return targets
