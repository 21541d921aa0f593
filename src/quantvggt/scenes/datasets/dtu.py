"""DTU as MVSNet's test release has it: objects on a table, in millimetres, with depth rendered from their scans.

Loaders of Spann3R, CUT3R, Pi3 and FGQ count the pixels of the object's mask, 10 pixels eroded, that have depth.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy.ndimage import minimum_filter

from quantvggt.scenes.datasets.contract import Picture
from quantvggt.scenes.datasets.on_disk import OnDisk
from quantvggt.scenes.datasets.pixels import inter_nearest
from quantvggt.scenes.datasets.read import (
    listed,
    parse_numbers,
    read_array,
    read_bytes,
    read_grey,
    read_pixels,
    unreadable,
)
from quantvggt.scenes.datasets.views import View, pinhole

SCANS = (1, 4, 9, 10, 11, 12, 13, 15, 23, 24, 29, 32, 33, 34, 48, 49, 62, 75, 77, 110, 114, 118)
VIEWS = 49
ERODED = 10
LEAST = 1e-4  # of depth


class Dtu(OnDisk):
    name: ClassVar[str] = "dtu"
    title: ClassVar[str] = "DTU, scanned objects on a table, MVSNet's test release"
    licence: ClassVar[str] = "research use, cite"
    source: ClassVar[str] = "roboimagedata.compute.dtu.dk"
    splits: ClassVar[dict[str, Sequence[str]]] = {"test": tuple(f"scan{number}" for number in SCANS)}

    def parts(self, scene: str) -> Sequence[Path]:
        return [self.root / scene / part for part in ("images", "cams", "depths", "binary_masks")]

    def frame_count(self, scene: str) -> int | None:
        return VIEWS

    def frames(self, scene: str) -> Sequence[str]:
        return listed(self.root / scene / "images", ".jpg", ".png")

    def view(self, scene: str, frame: str, picture: Picture) -> View:
        folder, stem = self.root / scene, Path(frame).stem
        path, camera = folder / "images" / frame, folder / "cams" / f"{stem}_cam.txt"
        text = read_bytes(camera).decode("utf-8", "replace")
        found = re.search(r"extrinsic(.*?)intrinsic((?:\s+\S+){9})", text, re.S)
        if found is None:
            raise unreadable(camera, "it has no extrinsic and intrinsic matrix")
        lens = parse_numbers(found[2], camera, 3, 3)
        depth = np.nan_to_num(read_array(folder / "depths" / f"{stem}.npy", 2))
        mask = read_grey(folder / "binary_masks" / f"{stem}.png") > 127
        mask = mask[np.ix_(*(inter_nearest(*sides) for sides in zip(mask.shape, depth.shape, strict=True)))]
        kept = minimum_filter(mask, ERODED, mode="constant", cval=True) & (depth > LEAST)
        return View(
            frame,
            path,
            read_pixels(path),
            pinhole(lens[0, 0], lens[1, 1], lens[0, 2], lens[1, 2], whole=True),
            parse_numbers(found[1], camera, 4, 4)[:3],
            depth,
            kept,
        )
