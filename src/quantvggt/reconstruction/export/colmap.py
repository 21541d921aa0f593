"""A COLMAP project folder: images/ and a model in sparse/0, ready for COLMAP and for splatting trainers.

Formats: https://colmap.github.io/format.html. COLMAP shares our camera axes and puts pixel centres at +0.5 too, so
nothing is converted but rotations, which become quaternions. Programs read the binary model, people the text.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.files import atomic_folder
from quantvggt.reconstruction.export.pictures import write_pictures
from quantvggt.reconstruction.export.text import decimals_for, table
from quantvggt.reconstruction.export.views import View, make_views
from quantvggt.reconstruction.geometry import project, quaternions
from quantvggt.reconstruction.points import PointCloud
from quantvggt.reconstruction.scene import Scene

PINHOLE = 1
"""COLMAP's number of the model with fx, fy, cx, cy."""
PIXEL_DECIMALS = 3


def write_colmap(
    scene: Scene,
    cloud: PointCloud,
    path: Path,
    size: str = "original",
    shared_camera: bool = False,
    colmap: str = "both",
) -> None:
    """A PINHOLE camera per picture, or one for all; every point with its track.

    size, shared_camera, colmap: see `ExportOptions`. Points with the longest tracks come first. The error of a point is
    the mean distance, in pixels of the pictures, between its projections and its observations.
    """
    views = make_views(scene, size, shared_camera)
    model = _model(scene, cloud, views, shared_camera)
    with atomic_folder(path) as folder:
        write_pictures(scene, views, folder / "images")
        sparse = folder / "sparse" / "0"
        sparse.mkdir(parents=True)
        if colmap != "binary":
            _write_text(model, sparse)
        if colmap != "text":
            _write_binary(model, sparse)


@dataclass(frozen=True)
class Model:
    """What a COLMAP model holds: C cameras, S images, N points, M observations.

    cameras: the views that stand for them; camera: int [S], which one an image has, from 0. poses: float64 [S, 7],
    quaternion wxyz and translation, world-to-camera.
    xyz, rgb, error [N]; length: int [N], of the tracks. Observations in order of images: image, point: int [M], from 0;
    index: int [M], the observation's place in its image; xy: float64 [M, 2].
    """

    views: list[View]
    cameras: list[View]
    camera: NDArray[np.intp]
    poses: NDArray[np.float64]
    xyz: NDArray[np.float64]
    rgb: NDArray[np.uint8]
    error: NDArray[np.float64]
    length: NDArray[np.intp]
    image: NDArray[np.intp]
    point: NDArray[np.intp]
    index: NDArray[np.intp]
    xy: NDArray[np.float64]

    def of_image(self, image: int) -> slice:
        """Its observations."""
        first, last = np.searchsorted(self.image, [image, image + 1])
        return slice(int(first), int(last))

    @property
    def by_point(self) -> NDArray[np.intp]:
        """The observations in order of points."""
        return np.argsort(self.point, kind="stable")


def _model(scene: Scene, cloud: PointCloud, views: list[View], shared_camera: bool) -> Model:
    """The scene in COLMAP's terms, with reprojection errors in the views' pixels."""
    tracks = cloud.tracks
    length = np.bincount(tracks.point, minlength=len(cloud))
    order = np.argsort(-length, kind="stable")
    number = np.empty(len(cloud), np.intp)
    number[order] = np.arange(len(cloud))
    sequence = np.lexsort((number[tracks.point], tracks.frame))
    image, point, xy = tracks.frame[sequence], number[tracks.point[sequence]], tracks.xy[sequence]
    xyz = cloud.xyz[order].astype(np.float64)
    total = np.zeros(len(cloud))
    counts = np.bincount(image, minlength=len(views))
    first = np.cumsum(counts) - counts
    for frame, view in enumerate(views):
        mine = slice(first[frame], first[frame] + counts[frame])
        xy[mine] = view.from_frame(xy[mine])
        seen, _ = project(xyz[point[mine]], scene.extrinsics[frame], view.lens)
        total += np.bincount(point[mine], np.linalg.norm(seen - xy[mine], axis=1), len(cloud))
    return Model(
        views=views,
        cameras=views[:1] if shared_camera else views,
        camera=np.zeros(len(views), np.intp) if shared_camera else np.arange(len(views)),
        poses=np.hstack([quaternions(scene.extrinsics)[:, [3, 0, 1, 2]], scene.extrinsics[:, :, 3]]),
        xyz=xyz,
        rgb=cloud.rgb[order],
        error=total / length[order],
        length=length[order],
        image=image,
        point=point,
        index=np.arange(len(image)) - first[image],
        xy=xy,
    )


def _write_text(model: Model, folder: Path) -> None:
    cameras = ["# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy"]
    for number, view in enumerate(model.cameras, start=1):
        cameras.append(f"{number} PINHOLE {view.width} {view.height} {_numbers(view.pinhole)}")
    (folder / "cameras.txt").write_text("\n".join(cameras) + "\n", encoding="utf-8")
    with open(folder / "images.txt", "wb") as stream:
        stream.write(b"# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then X Y POINT3D_ID of each observation\n")
        for image, view in enumerate(model.views):
            head = f"{image + 1} {_numbers(model.poses[image])} {model.camera[image] + 1} {view.file}\n"
            stream.write(head.encode())
            mine = model.of_image(image)
            x, y = model.xy[mine].T
            last = np.arange(mine.start, mine.stop) == mine.stop - 1
            columns = [(x, PIXEL_DECIMALS), (y, PIXEL_DECIMALS), (model.point[mine] + 1, 0)]
            stream.write(table(columns, last) or b"\n")
    with open(folder / "points3D.txt", "wb") as stream:
        stream.write(b"# POINT3D_ID X Y Z R G B ERROR, then IMAGE_ID POINT2D_IDX of each observation\n")
        decimals, order, done = decimals_for(model.xyz), model.by_point, 0
        for points, length in _of_equal_length(model.length):
            seen = order[done : done + (points.stop - points.start) * length].reshape(-1, length)
            done += seen.size
            columns = [(np.arange(points.start, points.stop) + 1, 0)]
            columns += [(model.xyz[points, axis], decimals) for axis in range(3)]
            columns += [(model.rgb[points, channel], 0) for channel in range(3)]
            columns += [(model.error[points], PIXEL_DECIMALS + 1)]
            for step in range(length):
                columns += [(model.image[seen[:, step]] + 1, 0), (model.index[seen[:, step]], 0)]
            stream.write(table(columns))


def _write_binary(model: Model, folder: Path) -> None:
    with open(folder / "cameras.bin", "wb") as stream:
        stream.write(struct.pack("<Q", len(model.cameras)))
        for number, view in enumerate(model.cameras, start=1):
            stream.write(struct.pack("<iiQQ4d", number, PINHOLE, view.width, view.height, *view.pinhole))
    observation = np.dtype([("xy", "<f8", 2), ("point", "<u8")])
    with open(folder / "images.bin", "wb") as stream:
        stream.write(struct.pack("<Q", len(model.views)))
        for image, view in enumerate(model.views):
            stream.write(struct.pack("<i7di", image + 1, *model.poses[image], model.camera[image] + 1))
            stream.write(view.file.encode() + b"\0")
            mine = model.of_image(image)
            rows = np.empty(mine.stop - mine.start, observation)
            rows["xy"], rows["point"] = model.xy[mine], model.point[mine] + 1
            stream.write(struct.pack("<Q", len(rows)) + rows.tobytes())
    with open(folder / "points3D.bin", "wb") as stream:
        stream.write(struct.pack("<Q", len(model.xyz)))
        order, done = model.by_point, 0
        for points, length in _of_equal_length(model.length):
            seen = order[done : done + (points.stop - points.start) * length].reshape(-1, length)
            done += seen.size
            fields = [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("length", "<u8")]
            rows = np.empty(len(seen), [*fields, ("track", "<u4", (length, 2))])
            rows["id"] = np.arange(points.start, points.stop) + 1
            rows["xyz"], rows["rgb"], rows["error"] = model.xyz[points], model.rgb[points], model.error[points]
            rows["length"] = length
            rows["track"] = np.stack([model.image[seen] + 1, model.index[seen]], axis=-1)
            stream.write(rows.tobytes())


def _of_equal_length(length: NDArray[np.intp]) -> list[tuple[slice, int]]:
    """Runs of points whose tracks are equally long."""
    starts = np.flatnonzero(np.diff(length, prepend=-1))
    ends = np.append(starts[1:], len(length))
    return [(slice(int(a), int(b)), int(length[a])) for a, b in zip(starts, ends, strict=True)]


def _numbers(values: "NDArray[np.float64] | tuple[float, ...]") -> str:
    return " ".join(f"{value:.9g}" for value in values)
