"""TUM RGB-D, trajectories of a Kinect by motion capture, eight dynamic sequences; and Bonn's scenes, much the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from quantvggt.scenes.datasets.colmap_model import pose_of
from quantvggt.scenes.datasets.contract import Picture
from quantvggt.scenes.datasets.on_disk import OnDisk
from quantvggt.scenes.datasets.read import (
    Floats,
    Matrix,
    inside,
    listed,
    parse_numbers,
    read_grey,
    read_lines,
    read_pixels,
    unreadable,
)
from quantvggt.scenes.datasets.views import SQUARE, UNKNOWN_POSE, View, inverse, pinhole

WIDTH = 640
FREIBURG_3 = (535.4, 539.2, 320.1, 247.6)
BONN = (542.822841, 542.576870, 315.593520, 237.756098)
"""fx, fy, cx, cy of pictures 640 wide, centres at whole numbers."""
COUNTED = slice(30, 140)  # of Bonn's files
APART = 0.02  # seconds between a picture and its pose, or its depth
UNIT = 5000  # of the depth, a metre


class Tum(OnDisk):
    """Frames are the pictures that have a pose within 0.02 s; depth is the nearest in time, if it is as near."""

    name: ClassVar[str] = "tum"
    title: ClassVar[str] = "TUM RGB-D, eight sequences with people moving"
    licence: ClassVar[str] = "CC BY 4.0"
    source: ClassVar[str] = "cvg.cit.tum.de, RGB-D SLAM Dataset"
    splits: ClassVar[dict[str, Sequence[str]]] = {
        "test": tuple(
            f"rgbd_dataset_freiburg3_{what}_{motion}"
            for what in ("sitting", "walking")
            for motion in ("static", "xyz", "halfsphere", "rpy")
        )
    }

    def __init__(self, root: Path | None) -> None:
        self._known: dict[str, dict[str, tuple[Matrix, str | None]]] = {}
        super().__init__(root)

    def parts(self, scene: str) -> Sequence[Path]:
        return [self.root / scene / part for part in ("rgb", "rgb.txt", "groundtruth.txt")]

    def frames(self, scene: str) -> Sequence[str]:
        return list(self._matched(scene))

    def view(self, scene: str, frame: str, picture: Picture) -> View:
        folder = self.root / scene
        pose, name = self._matched(scene)[frame]
        path = inside(folder, frame)
        image = read_pixels(path)
        depth = None if name is None else _metres(inside(folder, name))
        square = np.concatenate([pose_of(pose[[6, 3, 4, 5]], pose[:3]), SQUARE])
        return View(frame, path, image, kinect(FREIBURG_3, image.width), inverse(square), depth)

    def _matched(self, scene: str) -> dict[str, tuple[Matrix, str | None]]:
        """The pose (x y z qx qy qz qw, camera-to-world) and the depth's file of each picture."""
        if scene not in self._known:
            folder = self.root / scene
            times, names = _index(folder / "rgb.txt")
            path = folder / "groundtruth.txt"
            poses = parse_numbers(" ".join(read_lines(path)), path, -1, 8)
            near = nearest(times, poses[:, 0])
            has_depth = (folder / "depth.txt").is_file()
            depth_times, depths = _index(folder / "depth.txt") if has_depth else (np.zeros(0), [])
            beside = nearest(times, depth_times)
            self._known[scene] = {
                name: (poses[pose, 1:], depths[depth] if depth >= 0 else None)
                for name, pose, depth in zip(names, near, beside, strict=True)
                if pose >= 0
            }
        return self._known[scene]


class Bonn(OnDisk):
    """As published scripts have it: pictures and depth 30 to 139, sorted, paired by number and not by time. Poses are
    those of markers, so none is read."""

    name: ClassVar[str] = "bonn"
    title: ClassVar[str] = "Bonn RGB-D Dynamic, five sequences, depth"
    licence: ClassVar[str] = "research use"
    source: ClassVar[str] = "ipb.uni-bonn.de/data/rgbd-dynamic-dataset"
    splits: ClassVar[dict[str, Sequence[str]]] = {
        "test": ("balloon2", "crowd2", "crowd3", "person_tracking2", "synchronous")
    }

    def parts(self, scene: str) -> Sequence[Path]:
        return [self._folder(scene) / part for part in ("rgb", "depth")]

    def frames(self, scene: str) -> Sequence[str]:
        pictures, depths = self._listed(scene)
        return pictures[: len(depths)]

    def view(self, scene: str, frame: str, picture: Picture) -> View:
        folder = self._folder(scene)
        pictures, depths = self._listed(scene)
        path = folder / "rgb" / frame
        depth, image = _metres(folder / "depth" / depths[pictures.index(frame)]), read_pixels(path)
        return View(frame, path, image, kinect(BONN, image.width), UNKNOWN_POSE, depth)

    def _listed(self, scene: str) -> tuple[list[str], list[str]]:
        pictures, depths = (listed(self._folder(scene) / part, ".png")[COUNTED] for part in ("rgb", "depth"))
        return pictures, depths

    def _folder(self, scene: str) -> Path:
        inner = self.root / "rgbd_bonn_dataset"
        return (inner if inner.is_dir() else self.root) / f"rgbd_bonn_{scene}"


def kinect(numbers: tuple[float, float, float, float], width: int) -> Matrix:
    """Intrinsics [3, 3] of pictures `width` wide."""
    return np.diag([width / WIDTH, width / WIDTH, 1]) @ pinhole(*numbers, whole=True)


def nearest(times: Matrix, others: Matrix) -> list[int]:
    """For each time the place of the nearest other that is less than 0.02 s away, or -1."""
    if not len(others):
        return [-1] * len(times)
    order = np.argsort(others, kind="stable")
    after = (
        np.searchsorted(others[order], times).clip(1, len(others) - 1) if len(others) > 1 else np.zeros(len(times), int)
    )
    pair = order[np.stack([np.maximum(after - 1, 0), after])]
    away = np.abs(others[pair] - times)
    best = np.where(away[0] <= away[1], pair[0], pair[1])
    return np.where(away.min(0) < APART, best, -1).tolist()


def _index(path: Path) -> tuple[Matrix, list[str]]:
    """Lines of a time and a file."""
    words = [line.split() for line in read_lines(path)]
    if any(len(line) < 2 for line in words):
        raise unreadable(path, "its lines should be a time and the name of a file")
    return parse_numbers(" ".join(line[0] for line in words), path, -1), [line[1] for line in words]


def _metres(path: Path) -> Floats:
    return read_grey(path) / np.float32(UNIT)
