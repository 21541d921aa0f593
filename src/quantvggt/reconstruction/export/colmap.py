"""A COLMAP project folder: images/ and a text model in sparse/0, ready for COLMAP and for splatting trainers.

Format: https://colmap.github.io/format.html#text-format. COLMAP shares our camera axes and puts pixel
centres at +0.5 too, so nothing is converted but rotations, which become quaternions.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from quantvggt.core.files import atomic_folder
from quantvggt.models.pose import matrix_to_quaternion
from quantvggt.reconstruction.export.names import frame_files
from quantvggt.reconstruction.geometry import project
from quantvggt.reconstruction.points import PointCloud
from quantvggt.reconstruction.scene import Scene


def write_colmap(scene: Scene, cloud: PointCloud, path: Path) -> None:
    """One PINHOLE camera per frame; every point has a track of one: the pixel it comes from."""
    files = [f"{name}.png" for name in frame_files(scene)]
    with atomic_folder(path) as folder:
        (folder / "images").mkdir()
        for file, image in zip(files, scene.images, strict=True):
            Image.fromarray(image).save(folder / "images" / file)
        model = folder / "sparse" / "0"
        model.mkdir(parents=True)
        _write(model / "cameras.txt", _cameras(scene))
        _write(model / "images.txt", _images(scene, cloud, files))
        _write(model / "points3D.txt", _points(scene, cloud))


def _cameras(scene: Scene) -> list[str]:
    height, width = scene.size
    lines = ["# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy"]
    for number, lens in enumerate(scene.intrinsics.astype(np.float64), start=1):
        numbers = _numbers([lens[0, 0], lens[1, 1], lens[0, 2], lens[1, 2]])
        lines.append(f"{number} PINHOLE {width} {height} {numbers}")
    return lines


def _images(scene: Scene, cloud: PointCloud, files: list[str]) -> list[str]:
    rotations = torch.from_numpy(scene.extrinsics[:, :, :3].astype(np.float64))
    quaternions = matrix_to_quaternion(rotations).numpy()[:, [3, 0, 1, 2]]
    lines = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of X Y POINT3D_ID for each observation"]
    for frame, file in enumerate(files):
        pose = _numbers([*quaternions[frame], *scene.extrinsics[frame, :, 3]])
        lines.append(f"{frame + 1} {pose} {frame + 1} {file}")
        mine = np.flatnonzero(cloud.frame == frame)
        observations = zip(cloud.column[mine].tolist(), cloud.row[mine].tolist(), mine.tolist(), strict=True)
        lines.append(" ".join(f"{x + 0.5} {y + 0.5} {point + 1}" for x, y, point in observations))
    return lines


def _points(scene: Scene, cloud: PointCloud) -> list[str]:
    lines = ["# POINT3D_ID X Y Z R G B ERROR, then IMAGE_ID POINT2D_IDX of the track"]
    for frame in range(len(scene.names)):
        mine = np.flatnonzero(cloud.frame == frame)
        seen, _ = project(cloud.xyz[mine], scene.extrinsics[frame], scene.intrinsics[frame])
        errors = np.hypot(seen[:, 0] - cloud.column[mine] - 0.5, seen[:, 1] - cloud.row[mine] - 0.5)
        rows = zip(mine.tolist(), cloud.xyz[mine].tolist(), cloud.rgb[mine].tolist(), errors.tolist(), strict=True)
        for index, (point, xyz, (red, green, blue), error) in enumerate(rows):
            lines.append(f"{point + 1} {_numbers(xyz)} {red} {green} {blue} {error:.4g} {frame + 1} {index}")
    return lines


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.9g}" for value in values)


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
