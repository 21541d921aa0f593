"""7-Scenes: rooms filmed with a Kinect, with poses by KinectFusion.

Depth and colour are two cameras. `depth.proj.png`, depth registered to colour by SimpleRecon's script, is read where it
is; else raw depth is registered here in the same way, but without its slip: that script takes 65535, missing, for a
distance, and half of those pixels come back as something near.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from quantvggt.scenes.datasets.contract import Picture
from quantvggt.scenes.datasets.on_disk import OnDisk
from quantvggt.scenes.datasets.read import Floats, Matrix, listed, read_grey, read_numbers, read_pixels
from quantvggt.scenes.datasets.views import View, inverse, pinhole

SEQUENCES = {
    "chess": (3, 5),
    "fire": (3, 4),
    "heads": (1,),
    "office": (2, 6, 7, 9),
    "pumpkin": (1, 7),
    "redkitchen": (3, 4, 6, 12, 14),
    "stairs": (1, 4),
}
WIDTH, COLOUR_FOCAL, DEPTH_FOCAL = 640, 525.0, 585.0
DEPTH_TO_COLOUR = np.array(
    [
        [9.99965180e-01, 2.67651265e-03, -7.90410123e-03, -2.55589432e-02],
        [-2.74093113e-03, 9.99963028e-01, -8.15045208e-03, 1.01096363e-04],
        [7.88199421e-03, 8.17183288e-03, 9.99935546e-01, 2.03183217e-03],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""From the depth camera's axes to the colour camera's, metres."""
MISSING, FARTHEST = 65535, 10_000  # mm


class SevenScenes(OnDisk):
    """A scene is "room/seq-NN", one of the 18 test sequences."""

    name: ClassVar[str] = "7scenes"
    title: ClassVar[str] = "7-Scenes, rooms filmed with a Kinect"
    licence: ClassVar[str] = "Microsoft Research licence, not commercial"
    source: ClassVar[str] = "microsoft.com/research, RGB-D Dataset 7-Scenes"
    splits: ClassVar[dict[str, Sequence[str]]] = {
        "test": tuple(f"{room}/seq-{number:02d}" for room, numbers in SEQUENCES.items() for number in numbers)
    }

    def parts(self, scene: str) -> Sequence[Path]:
        return [self.root / scene]

    def category(self, scene: str) -> str:
        return scene.split("/")[0]

    def frame_count(self, scene: str) -> int | None:
        return 500 if self.category(scene) == "stairs" else 1000

    def frames(self, scene: str) -> Sequence[str]:
        return listed(self.root / scene, ".color.png")

    def view(self, scene: str, frame: str, picture: Picture) -> View:
        path = self.root / scene / frame
        stem, image = frame.removesuffix(".color.png"), read_pixels(path)
        registered = path.with_name(f"{stem}.depth.proj.png")
        if registered.is_file():
            depth = read_grey(registered)
        else:
            depth = register(read_grey(path.with_name(f"{stem}.depth.png")))
        pose = read_numbers(path.with_name(f"{stem}.pose.txt"), 4, 4)
        return View(frame, path, image, colour_lens(*image.size), inverse(pose), _metres(depth))


def colour_lens(width: int, height: int) -> Matrix:
    """Intrinsics [3, 3] of the colour camera: its centre is half the size with pixel centres at whole numbers, as the
    registration has it."""
    scale = width / WIDTH
    focal = COLOUR_FOCAL * scale
    return pinhole(focal, focal, (width + scale) / 2, (height + scale) / 2)


def register(raw: NDArray[Any]) -> NDArray[np.uint16]:
    """Raw depth [H, W] in mm to the pixels of the colour camera; the nearest where several fall, 0 where none."""
    height, width = raw.shape
    rows, columns = np.nonzero((raw > 0) & (raw != MISSING))
    distance = raw[rows, columns] / 1000.0
    x, y = ((columns + 0.5 - width / 2), (rows + 0.5 - height / 2))
    focal = DEPTH_FOCAL * width / WIDTH
    points = np.stack([x / focal * distance, y / focal * distance, distance])
    moved = DEPTH_TO_COLOUR[:3, :3] @ points + DEPTH_TO_COLOUR[:3, 3:]
    moved = moved[:, moved[2] > 0]
    u, v, _ = np.floor(colour_lens(width, height) @ (moved / moved[2])).astype(np.intp)
    millimetres = np.floor(moved[2] * 1000)  # as the script stores them
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (millimetres < MISSING)
    nearest = np.full((height, width), MISSING, np.uint16)
    np.minimum.at(nearest, (v[inside], u[inside]), millimetres[inside].astype(np.uint16))
    return np.where(nearest == MISSING, 0, nearest).astype(np.uint16)


def _metres(depth: NDArray[Any]) -> Floats:
    """Farther than 10 m is none, as loaders have it."""
    return np.where(depth > FARTHEST, np.float32(0), depth / np.float32(1000))
