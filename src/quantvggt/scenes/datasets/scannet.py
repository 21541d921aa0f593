"""ScanNet: rooms filmed with a depth sensor; the 100 test scans, exported from `.sens` by its own reader."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from quantvggt.scenes.datasets.contract import Picture
from quantvggt.scenes.datasets.on_disk import OnDisk
from quantvggt.scenes.datasets.read import Floats, Matrix, listed, read_grey, read_numbers, read_pixels
from quantvggt.scenes.datasets.views import View, inverse, pinhole


class Scannet(OnDisk):
    """Scans lie in the root or in `scans_test`. Frames without a pose (-inf) are left out of clips."""

    name: ClassVar[str] = "scannet"
    title: ClassVar[str] = "ScanNet, 100 test scans of rooms"
    licence: ClassVar[str] = "ScanNet terms of use, signed"
    source: ClassVar[str] = "scan-net.org"
    splits: ClassVar[dict[str, Sequence[str]]] = {"test": tuple(f"scene{number:04d}_00" for number in range(707, 807))}

    def parts(self, scene: str) -> Sequence[Path]:
        return [self._folder(scene) / part for part in ("color", "depth", "pose", "intrinsic")]

    def frames(self, scene: str) -> Sequence[str]:
        return listed(self._folder(scene) / "color", ".jpg")

    def view(self, scene: str, frame: str, picture: Picture) -> View:
        folder, stem = self._folder(scene), Path(frame).stem
        path = folder / "color" / frame
        image = read_pixels(path)
        lens, depth_lens = (_lens(folder / "intrinsic" / f"intrinsic_{camera}.txt") for camera in ("color", "depth"))
        depth = read_grey(folder / "depth" / f"{stem}.png").astype(np.float32) / 1000
        pose = read_numbers(folder / "pose" / f"{stem}.txt", 4, 4)
        return View(
            frame, path, image, lens, inverse(pose), through(depth, depth_lens, lens, image.width, image.height)
        )

    def _folder(self, scene: str) -> Path:
        inner = self.root / "scans_test"
        return (inner if inner.is_dir() else self.root) / scene


def through(depth: NDArray[Any], depth_lens: Matrix, lens: Matrix, width: int, height: int) -> Floats:
    """Depth [h, w] of a camera at the pixels [height, width] of another in the same place; the nearest value."""
    back = depth_lens @ np.linalg.inv(lens)
    columns = np.floor(back[0, 0] * (np.arange(width) + 0.5) + back[0, 2]).astype(np.intp)
    rows = np.floor(back[1, 1] * (np.arange(height) + 0.5) + back[1, 2]).astype(np.intp)
    inside = ((rows >= 0) & (rows < depth.shape[0]))[:, None] & (columns >= 0) & (columns < depth.shape[1])
    taken = depth[np.ix_(rows.clip(0, depth.shape[0] - 1), columns.clip(0, depth.shape[1] - 1))]
    return np.where(inside, taken, np.float32(0))


def _lens(path: Path) -> Matrix:
    matrix = read_numbers(path, 4, 4)
    return pinhole(matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2], whole=True)
