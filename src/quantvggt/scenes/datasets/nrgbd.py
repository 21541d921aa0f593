"""NRGBD, the scenes of Neural RGB-D Surface Reconstruction: rendered rooms with clean depth."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from quantvggt.scenes.datasets.contract import Picture
from quantvggt.scenes.datasets.on_disk import OnDisk
from quantvggt.scenes.datasets.read import Matrix, listed, parse_numbers, read_bytes, read_grey, read_pixels, unreadable
from quantvggt.scenes.datasets.views import OPENGL, View, inverse, pinhole

WIDTH, FOCAL, FARTHEST = 640, 554.2562584220408, 10_000


class Nrgbd(OnDisk):
    """Frames whose pose is "nan" are left out of clips; CUT3R and QuantVGGT give them the identity."""

    name: ClassVar[str] = "nrgbd"
    title: ClassVar[str] = "NRGBD, nine rendered rooms"
    licence: ClassVar[str] = "CC BY or CC0, by scene"
    source: ClassVar[str] = "kaldir.vc.in.tum.de, neural_rgbd_data.zip"
    splits: ClassVar[dict[str, Sequence[str]]] = {
        "test": (
            *("breakfast_room", "complete_kitchen", "green_room", "grey_white_room", "kitchen"),
            *("morning_apartment", "staircase", "thin_geometry", "whiteroom"),
        )
    }

    def __init__(self, root: Path | None) -> None:
        self._poses: dict[str, Matrix] = {}
        super().__init__(root)

    def parts(self, scene: str) -> Sequence[Path]:
        return [self.root / scene / part for part in ("images", "depth", "poses.txt")]

    def frames(self, scene: str) -> Sequence[str]:
        return listed(self.root / scene / "images", ".png")

    def view(self, scene: str, frame: str, picture: Picture) -> View:
        folder, number = self.root / scene, Path(frame).stem.removeprefix("img")
        path = folder / "images" / frame
        image = read_pixels(path)
        depth = read_grey(folder / "depth" / f"depth{number}.png")
        focal = FOCAL * image.width / WIDTH
        return View(
            frame,
            path,
            image,
            pinhole(focal, focal, image.width / 2, image.height / 2, whole=picture.published),
            inverse(self._pose(folder / "poses.txt", number) * OPENGL),
            np.where(depth > FARTHEST, np.float32(0), depth / np.float32(1000)),
        )

    def _pose(self, path: Path, number: str) -> Matrix:
        if (poses := self._poses.get(path.parent.name)) is None:
            text = read_bytes(path).decode("utf-8", "replace")
            poses = self._poses[path.parent.name] = parse_numbers(text, path, -1, 4, 4)
        if not number.isdecimal() or int(number) >= len(poses):
            raise unreadable(path, f"it has {len(poses)} poses, none for img{number}.png")
        return poses[int(number)]
