"""Miniatures of published datasets: small scenes of our own renderer, in the layout that the official download has.

`write_mini(name, folder)` writes one and returns its root; `truth(name, ...)` is what the renderer knows of it.
Extrinsics are world-to-camera, OpenCV; intrinsics have pixel centres at +0.5.
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from quantvggt.scenes import synthetic
from quantvggt.scenes.raycast import render

FIRST_SEED = 9_800_000


@dataclass(frozen=True)
class Rendered:
    """One scene. images: uint8 [S, H, W, 3]; depth: float32 [S, H, W], 0 in the sky; extrinsics: float64 [S, 3, 4];
    lens: float64 [3, 3]."""

    images: np.ndarray
    depth: np.ndarray
    extrinsics: np.ndarray
    lens: np.ndarray

    @property
    def poses(self) -> np.ndarray:
        """Camera-to-world [S, 4, 4]."""
        square = np.tile(np.eye(4), (len(self.extrinsics), 1, 1))
        square[:, :3] = self.extrinsics
        return np.linalg.inv(square)


@dataclass(frozen=True)
class Mini:
    """How a miniature is made: its scenes by name, and the camera that the dataset has.

    depth: has it any? unit: of its depth and positions, in the renderer's metres.
    """

    write: Callable[["Mini", Path, int, int], None]
    names: tuple[str, ...]
    width: int = 96
    height: int = 72
    lens: tuple[float, float, float, float] = (100.0, 98.0, 49.0, 35.0)  # fx, fy, cx, cy
    depth: bool = True
    unit: float = 1.0

    def scene(self, index: int, frames: int) -> Rendered:
        return rendered(FIRST_SEED + index, frames, self.width, self.height, self.lens)

    def at_lens(self, index: int, frames: int, lens: np.ndarray, width: int, height: int) -> Rendered:
        """The same views through another camera."""
        seen = (lens[0, 0], lens[1, 1], lens[0, 2], lens[1, 2])
        return rendered(FIRST_SEED + index, frames, width, height, seen)

    def truth_lens(self) -> np.ndarray:
        fx, fy, cx, cy = self.lens
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def rendered(seed: int, frames: int, width: int, height: int, lens: tuple[float, float, float, float]) -> Rendered:
    """The synthetic scene of a seed through a camera of one's own."""
    rng = np.random.default_rng(seed)
    solids, ground = synthetic._sample_scene(rng)
    extrinsics, _ = synthetic._sample_cameras(rng, frames, height, width)
    fx, fy, cx, cy = lens
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    views = [render(solids, ground, camera, matrix, height, width) for camera in extrinsics]
    images, depth = (np.stack(part) for part in zip(*views, strict=True))
    return Rendered(images, depth, extrinsics, matrix)


def write_mini(name: str, folder: Path, scenes: int = 2, frames: int = 4) -> Path:
    """A miniature of the dataset `name` with the first of its scenes; returns the root for `open_dataset`."""
    root = folder / name
    mini = MINIS[name]
    for index in range(scenes):
        mini.write(mini, root, index, frames)
    return root


def save_png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def save_jpeg(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, "JPEG", quality=98, subsampling=0)


def save_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def numbers(values: np.ndarray) -> str:
    """One line a row."""
    return "".join(" ".join(f"{value:.12g}" for value in row) + "\n" for row in np.atleast_2d(values))


def millimetres(depth: np.ndarray, missing: int = 0) -> np.ndarray:
    return np.where(depth > 0, np.round(depth * 1000), missing).astype(np.uint16)


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """wxyz of a rotation [3, 3], by its eigenvector of eigenvalue 1 in the symmetric matrix of Bar-Itzhack (2000)."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    k = np.array(
        [
            [a - e - i, d + b, g + c, h - f],
            [d + b, e - a - i, h + f, c - g],
            [g + c, h + f, i - a - e, d - b],
            [h - f, c - g, d - b, a + e + i],
        ]
    )
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    return np.array([w, x, y, z])


def _co3d(mini: Mini, root: Path, index: int, frames: int) -> None:
    scene = mini.scene(index, frames)
    category, sequence = mini.names[index].split("/")
    told = []
    for frame, (image, camera) in enumerate(zip(scene.images, scene.extrinsics, strict=True)):
        path = f"{category}/{sequence}/images/frame{frame + 1:06d}.jpg"
        save_jpeg(root / path, image)
        unit = min(mini.width, mini.height) / 2
        turned = np.diag([-1, -1, 1]) @ camera  # PyTorch3D: x left, y up, row vectors
        told.append(
            {
                "filepath": path,
                "R": turned[:, :3].T.tolist(),
                "T": turned[:, 3].tolist(),
                "focal_length": [scene.lens[0, 0] / unit, scene.lens[1, 1] / unit],
                "principal_point": [
                    (mini.width / 2 - scene.lens[0, 2]) / unit,
                    (mini.height / 2 - scene.lens[1, 2]) / unit,
                ],
            }
        )
    file = root / f"{category}_test.jgz"
    known = json.loads(gzip.decompress(file.read_bytes())) if file.exists() else {}
    file.write_bytes(gzip.compress(json.dumps({**known, sequence: told}).encode()))


def _colmap(mini: Mini, root: Path, index: int, frames: int) -> None:
    scene = mini.scene(index, frames)
    folder = root / mini.names[index]
    fx, fy, cx, cy = mini.lens
    lines = ["# a comment"]
    for frame, (image, camera) in enumerate(zip(scene.images, scene.extrinsics, strict=True)):
        save_png(folder / "images" / f"{frame}.png", image)
        pose = " ".join(f"{value:.12g}" for value in (*quaternion(camera[:, :3]), *camera[:, 3]))
        lines += [f"{frames - frame} {pose} 7 {frame}.png", "3.5 4.5 -1" if frame else ""]
    save_text(
        folder / "sparse/0/cameras.txt", f"# a comment\n7 PINHOLE {mini.width} {mini.height} {fx} {fy} {cx} {cy}\n"
    )
    save_text(folder / "sparse/0/images.txt", "\n".join(lines) + "\n")


MINIS: dict[str, Mini] = {
    "co3d": Mini(_co3d, ("apple/110_13051_23361", "apple/12_90_489", "bench/415_57112_110099"), depth=False),
    "colmap": Mini(_colmap, ("garden", "kitchen", "bicycle"), depth=False),
}
