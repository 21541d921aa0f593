"""File names for frames."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from quantvggt.reconstruction.scene import Scene


def frame_files(scene: Scene) -> list[str]:
    """One flat, distinct name without suffix per frame, made from its own name, safe in every file system."""
    stems = [
        _safe(str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name) for name in scene.names
    ]
    return distinct(stems)


def distinct(files: Sequence[str]) -> list[str]:
    """The same paths if they differ, also where case doesn't count; else each with its number before its last part."""
    if len({file.lower() for file in files}) == len(files):
        return list(files)
    numbered = [PurePosixPath(file) for file in files]
    return [str(path.with_name(f"{index:04d}_{path.name}")) for index, path in enumerate(numbered)]


def _safe(name: str) -> str:
    # COLMAP splits its text files at spaces, and folders and odd characters only make trouble here.
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "frame"
