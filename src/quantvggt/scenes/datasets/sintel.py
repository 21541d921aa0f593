"""MPI Sintel: frames of an animated film, "final" pass, with rendered depth and cameras."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from quantvggt.scenes.datasets.contract import Picture
from quantvggt.scenes.datasets.on_disk import OnDisk
from quantvggt.scenes.datasets.read import Floats, Matrix, listed, read_bytes, read_pixels, unreadable
from quantvggt.scenes.datasets.views import View, pinhole

TAG = np.float32(202021.25)


class Sintel(OnDisk):
    """The root is the folder that holds `training`, or that folder; depth and cameras are downloads of their own."""

    name: ClassVar[str] = "sintel"
    title: ClassVar[str] = "MPI Sintel, 14 sequences of an animated film"
    licence: ClassVar[str] = "research use; the film CC BY 3.0"
    source: ClassVar[str] = "sintel.is.tue.mpg.de, MPI-Sintel-complete and MPI-Sintel-depth"
    splits: ClassVar[dict[str, Sequence[str]]] = {
        "test": (
            *("alley_2", "ambush_4", "ambush_5", "ambush_6", "cave_2", "cave_4", "market_2", "market_5", "market_6"),
            *("shaman_3", "sleeping_1", "sleeping_2", "temple_2", "temple_3"),
        )
    }

    def parts(self, scene: str) -> Sequence[Path]:
        return [self._folder() / part / scene for part in ("final", "depth", "camdata_left")]

    def frames(self, scene: str) -> Sequence[str]:
        return listed(self._folder() / "final" / scene, ".png")

    def view(self, scene: str, frame: str, picture: Picture) -> View:
        folder, stem = self._folder(), Path(frame).stem
        path = folder / "final" / scene / frame
        lens, extrinsics = read_camera(folder / "camdata_left" / scene / f"{stem}.cam")
        depth = read_depth(folder / "depth" / scene / f"{stem}.dpt")
        return View(frame, path, read_pixels(path), lens, extrinsics, depth)

    def _folder(self) -> Path:
        inner = self.root / "training"
        return inner if inner.is_dir() else self.root


def read_depth(path: Path) -> Floats:
    """A .dpt file [H, W]."""
    data = _tagged(path)
    width, height = np.frombuffer(data, "<i4", 2, 4) if len(data) >= 12 else (0, 0)
    if width < 1 or height < 1 or len(data) != 12 + 4 * int(width) * int(height):
        raise unreadable(path, f"it has {len(data)} bytes, which aren't {width}x{height} floats")
    return np.frombuffer(data, "<f4", offset=12).reshape(height, width)


def read_camera(path: Path) -> tuple[Matrix, Matrix]:
    """A .cam file: intrinsics [3, 3] and world-to-camera [3, 4]."""
    data = _tagged(path)
    if len(data) != 4 + 8 * 21:
        raise unreadable(path, f"it has {len(data)} bytes, a camera has {4 + 8 * 21}")
    numbers = np.frombuffer(data, "<f8", offset=4)
    fx, _, cx, _, fy, cy, *_ = numbers[:9]
    return pinhole(fx, fy, cx, cy, whole=True), numbers[9:].reshape(3, 4)


def _tagged(path: Path) -> bytes:
    data = read_bytes(path)
    if len(data) < 4 or np.frombuffer(data, "<f4", 1)[0] != TAG:
        raise unreadable(path, "it doesn't begin as Sintel's files do")
    return data
