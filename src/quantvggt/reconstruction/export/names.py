"""File names for frames."""

import re
from pathlib import PurePosixPath

from quantvggt.reconstruction.scene import Scene


def frame_files(scene: Scene) -> list[str]:
    """One flat, distinct name without suffix per frame, made from its own name, safe in every file system."""
    stems = [
        _safe(str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name) for name in scene.names
    ]
    if len(set(map(str.lower, stems))) == len(stems):
        return stems
    return [f"{index:04d}_{stem}" for index, stem in enumerate(stems)]


def _safe(name: str) -> str:
    # COLMAP splits its text files at spaces, and folders and odd characters only make trouble here.
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "frame"
