"""A Scene in other programs' formats: one file per format, one table of them."""

from collections.abc import Callable, Iterable
from pathlib import Path

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.export.cameras import write_cameras
from quantvggt.reconstruction.export.colmap import write_colmap
from quantvggt.reconstruction.export.depth import write_depth
from quantvggt.reconstruction.export.glb import write_glb
from quantvggt.reconstruction.export.npz import write_npz
from quantvggt.reconstruction.export.ply import write_ply
from quantvggt.reconstruction.points import PointCloud, select_points
from quantvggt.reconstruction.scene import Scene

OF_SCENE: dict[str, tuple[str, Callable[[Scene, Path], None]]] = {
    "cameras": ("cameras.json", write_cameras),
    "depth": ("depth", write_depth),
    "npz": ("scene.npz", write_npz),
}
OF_POINTS: dict[str, tuple[str, Callable[[Scene, PointCloud, Path], None]]] = {
    "colmap": ("colmap", write_colmap),
    "glb": ("scene.glb", write_glb),
    "ply": ("points.ply", write_ply),
}
FORMATS = tuple(sorted([*OF_SCENE, *OF_POINTS]))


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
    targets = {name: folder / (OF_SCENE.get(name) or OF_POINTS[name])[0] for name in formats}
    existing = [str(path) for path in targets.values() if path.exists()]
    if existing and not overwrite:
        raise InputError(f"{', '.join(existing)} already exists; allow overwriting or choose another folder")
    cloud = select_points(scene, min_confidence, max_points, seed) if set(formats) & set(OF_POINTS) else None
    for name, path in targets.items():
        if name in OF_SCENE:
            OF_SCENE[name][1](scene, path)
        elif cloud is not None:
            OF_POINTS[name][1](scene, cloud, path)
    return targets
