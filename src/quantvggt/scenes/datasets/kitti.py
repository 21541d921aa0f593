"""KITTI depth prediction: the validation drives, with depth accumulated from laser scans; no poses are read.

Depth is in `val/DRIVE/proj_depth/groundtruth/image_02`; pictures, of the raw data, in `DRIVE/image_02/data` below the
root, below `val`, or below the date (`2011_09_26/`), also in a folder `raw`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from quantvggt.scenes.datasets.contract import Picture
from quantvggt.scenes.datasets.on_disk import OnDisk
from quantvggt.scenes.datasets.read import Matrix, listed, parse_numbers, read_grey, read_lines, read_pixels
from quantvggt.scenes.datasets.views import UNKNOWN_LENS, UNKNOWN_POSE, View, pinhole

CAMERA = "image_02"
DRIVES = 13
UNIT = 256  # of the depth, a metre


class Kitti(OnDisk):
    """A scene is a drive. Intrinsics are those of `calib_cam_to_cam.txt` beside the drive or its date, else unknown."""

    name: ClassVar[str] = "kitti"
    title: ClassVar[str] = "KITTI depth prediction, 13 validation drives"
    licence: ClassVar[str] = "CC BY-NC-SA 3.0"
    source: ClassVar[str] = "cvlibs.net/datasets/kitti, data_depth_annotated.zip and raw data"
    splits: ClassVar[dict[str, Sequence[str]]] = {"test": ()}

    def official(self, split: str) -> Sequence[str]:
        super().official(split)
        return sorted(path.name for path in (self.root / "val").glob("*_sync"))

    def looked_for(self) -> str:
        return f"val/DRIVE_sync/proj_depth/groundtruth/{CAMERA} and DRIVE_sync/{CAMERA}/data"

    def missing(self, split: str = "test") -> Sequence[str]:
        there = len(self.official(split))
        lacking = (
            [f"{DRIVES - there} of {DRIVES} validation drives: no folder val/DRIVE_sync"] if there < DRIVES else []
        )
        return [*lacking, *super().missing(split)]

    def parts(self, scene: str) -> Sequence[Path]:
        return [self._depth(scene), self._pictures(scene)]

    def frames(self, scene: str) -> Sequence[str]:
        return listed(self._depth(scene), ".png")

    def view(self, scene: str, frame: str, picture: Picture) -> View:
        path = self._pictures(scene) / frame
        depth = read_grey(self._depth(scene) / frame) / np.float32(UNIT)
        return View(frame, path, read_pixels(path), self._lens(scene), UNKNOWN_POSE, depth)

    def _depth(self, scene: str) -> Path:
        return self.root / "val" / scene / "proj_depth" / "groundtruth" / CAMERA

    def _pictures(self, scene: str) -> Path:
        folders = [drive / CAMERA / "data" for drive in self._drives(scene)]
        return next((folder for folder in folders if folder.is_dir()), folders[0])

    def _drives(self, scene: str) -> list[Path]:
        date = scene[:10]
        inner = (Path(), Path("val"), Path(date), Path("raw"), Path("raw", date))
        return [self.root / folder / scene for folder in inner]

    def _lens(self, scene: str) -> Matrix:
        places = [folder / "calib_cam_to_cam.txt" for drive in self._drives(scene) for folder in (drive, drive.parent)]
        path = next((path for path in places if path.is_file()), None)
        for line in read_lines(path) if path else ():
            if path and line.startswith("P_rect_02:"):
                fx, _, cx, _, _, fy, cy = parse_numbers(line.partition(":")[2], path, 12)[:7]
                return pinhole(fx, fy, cx, cy, whole=True)
        return UNKNOWN_LENS
