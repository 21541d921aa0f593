"""Each frame as the picture that it is written with: its file, its size, its camera, and how its pixels map."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.export.names import distinct, frame_files
from quantvggt.reconstruction.lens import original_lens
from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.names import plain_path
from quantvggt.scenes.preprocess import frame_mappings

READABLE = (".jpg", ".jpeg", ".png")
"""What every program that opens COLMAP models reads."""


@dataclass(frozen=True)
class View:
    """A picture of width x height pixels, of which a frame shows a part.

    file: its path under images/, "/" between folders. lens: float64 [3, 3], in its pixels, centres at +0.5.
    pixel_in_frame = pixel * scale + offset. source: the mapping of the user's picture, None if it is the frame itself.
    """

    file: str
    width: int
    height: int
    lens: NDArray[np.float64]
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    source: dict[str, Any] | None = None

    def from_frame(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels of the frame [N, 2] in this picture."""
        return (xy - self.offset) / self.scale

    def to_frame(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels of this picture [N, 2] in the frame."""
        return xy * self.scale + self.offset

    @property
    def pinhole(self) -> tuple[float, float, float, float]:
        """fx, fy, cx, cy."""
        fx, fy, cx, cy = self.lens[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()
        return fx, fy, cx, cy


def make_views(scene: Scene, size: str = "original", shared_camera: bool = False) -> list[View]:
    """One per frame, at the size of the user's picture if `size` is "original" and the scene comes from files.

    Raises InputError if the pictures of a shared camera differ in size.
    """
    sources = frame_mappings(scene.provenance.get("source", {}), len(scene.names)) if size == "original" else []
    views = _originals(scene, sources) if sources else _frames(scene)
    return _sharing(views) if shared_camera else views


def _frames(scene: Scene) -> list[View]:
    height, width = scene.size
    files = [f"{file}.png" for file in frame_files(scene)]
    return [View(file, width, height, _rounded(lens)) for file, lens in zip(files, scene.intrinsics, strict=True)]


def _originals(scene: Scene, sources: Sequence[dict[str, Any]]) -> list[View]:
    files = distinct([_file(name, source) for name, source in zip(scene.names, sources, strict=True)])
    return [
        View(
            file,
            source["width"],
            source["height"],
            _rounded(original_lens(lens, source)),
            (source["scale"][0], source["scale"][1]),
            (source["offset"][0], source["offset"][1]),
            source,
        )
        for file, lens, source in zip(files, scene.intrinsics, sources, strict=True)
    ]


def _rounded(lens: NDArray[Any]) -> NDArray[np.float64]:
    """To the 7 digits that a float32 has, so that the middle of 4032 pixels reads 2016."""
    return np.array([[float(f"{value:.7g}") for value in row] for row in lens.tolist()])


def _file(name: str, source: dict[str, Any]) -> str:
    """The user's own name, but without what COLMAP's text files or other systems can't take."""
    if "frame" in source:  # a video's: the name has no suffix
        return f"{plain_path(name)}.jpg"
    path = PurePosixPath(plain_path(name))
    suffix = path.suffix or Path(source.get("path", "")).suffix
    if suffix.lower() in READABLE:
        return str(path.with_suffix(suffix))
    return str(path.with_suffix(".png" if suffix.lower() in (".bmp", ".tif", ".tiff") else ".jpg"))


def _sharing(views: list[View]) -> list[View]:
    sizes = sorted({(view.width, view.height) for view in views})
    if len(sizes) > 1:
        told = ", ".join(f"{width}x{height}" for width, height in sizes)
        raise InputError(f"a shared camera needs pictures of one size, these have {told}; leave --shared-camera out")
    lens = _rounded(np.median([view.lens for view in views], axis=0))
    return [replace(view, lens=lens) for view in views]
