"""Cameras known beforehand: read from what exports write, and found again by the pictures' names."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantvggt.core.errors import InputError
from quantvggt.models import Given
from quantvggt.models.pose import quaternion_to_matrix
from quantvggt.reconstruction.geometry import TO_OPENGL, invert
from quantvggt.reconstruction.lens import clip_lens, colmap_cameras, colmap_images, lens_of
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.names import plain_path
from quantvggt.scenes.preprocess import frame_mappings

FORMS = "give a cameras.json, a nerfstudio transforms.json, or a folder with COLMAP's cameras.txt and images.txt"
_IN_A_FOLDER = ("cameras.json", "transforms.json", "images.txt", "sparse/0/images.txt")
_TURN_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Camera:
    """extrinsics: world-to-camera [3, 4] (OpenCV); lens: [3, 3] in pixels of the upright picture; size: its width and
    height."""

    extrinsics: NDArray[np.float64]
    lens: NDArray[np.float64]
    size: tuple[int, int]


class KnownCameras:
    """Cameras by file name. where: they were read from."""

    gives = frozenset({"extrinsics", "intrinsics"})

    def __init__(self, by_name: Mapping[str, Camera], where: str) -> None:
        """Raises InputError if there is none, or one is impossible."""
        self.where = where
        self._by_name = dict(by_name)
        if not by_name:
            raise InputError(f"no camera in {where}; {FORMS}")
        for name, camera in by_name.items():
            turn = camera.extrinsics[:, :3]
            level = np.abs(turn @ turn.T - np.eye(3)).max() < _TURN_TOLERANCE and np.linalg.det(turn) > 0
            if not (np.isfinite(camera.extrinsics).all() and level):
                raise InputError(f"{name} in {where} has no rotation in its pose; check the file")
        self._found: dict[str, list[Camera]] = {}
        for name, camera in by_name.items():
            for key in _keys(name):
                self._found.setdefault(key, []).append(camera)

    @property
    def key(self) -> list[Any]:
        """JSON-able; the same for the same cameras."""
        found = sorted(self._by_name.items())
        return [[name, camera.extrinsics.tolist(), camera.lens.tolist(), camera.size] for name, camera in found]

    def require(self, names: Iterable[str]) -> None:
        """Raises InputError naming the first frame that has none."""
        for name in names:
            self._find(name)

    def of(self, clip: Clip) -> Given:
        """The extrinsics and intrinsics of each frame, in the clip's pixels.

        Raises InputError naming the first frame that has none, or whose picture is of another size.
        """
        height, width = clip.images.shape[-2:]
        sources = frame_mappings(clip.source, len(clip.names)) or [
            {"width": width, "height": height, "scale": (1, 1), "offset": (0, 0)}
        ] * len(clip.names)
        cameras = [self._of(name, source) for name, source in zip(clip.names, sources, strict=True)]
        lenses = [clip_lens(camera.lens, source) for camera, source in zip(cameras, sources, strict=True)]
        poses = np.stack([camera.extrinsics for camera in cameras])
        return Given(torch.from_numpy(poses).float(), torch.from_numpy(np.stack(lenses)).float())

    def _of(self, name: str, source: Mapping[str, Any]) -> Camera:
        camera = self._find(name)
        if camera.size != (source["width"], source["height"]):
            raise InputError(
                f"{self.where} has a camera of {camera.size[0]}x{camera.size[1]} pixels for {name}, which has "
                f"{source['width']}x{source['height']}; give cameras of these pictures"
            )
        return camera

    def _find(self, name: str) -> Camera:
        candidates = (self._found.get(key, ()) for key in _keys(name))
        camera = next((found[0] for found in candidates if len(found) == 1), None)
        if camera is None:
            raise InputError(f"{self.where} has no camera of its own for {name}; add it, or leave the cameras out")
        return camera


def given_of(clip: Clip, cameras: "KnownCameras | str | os.PathLike[str] | None", depth: Tensor | None) -> Given | None:
    """What is known of a clip, None if nothing is. Raises InputError as `read_cameras` and `KnownCameras.of` do."""
    if cameras is None and depth is None:
        return None
    known = cameras if isinstance(cameras, KnownCameras) or cameras is None else read_cameras(cameras)
    return replace(Given() if known is None else known.of(clip), depth=depth)


def read_cameras(path: str | os.PathLike[str]) -> KnownCameras:
    """What `reconstruct` writes, or others in the same form: cameras.json, nerfstudio's transforms.json, COLMAP's
    cameras.txt and images.txt; the file, or a folder that holds it.

    Raises InputError if it is none of these.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file = next((file / name for name in _IN_A_FOLDER if (file / name).is_file()), file)
    try:
        if file.suffix.lower() == ".txt":
            return KnownCameras(_from_colmap(file.parent), str(file.parent))
        read = json.loads(file.read_text(encoding="utf-8"))
        frames = read["frames"]
        ours = all("extrinsics" in frame for frame in frames)
        named = (_from_ours(frame, str(file)) if ours else _from_nerfstudio(frame, read, str(file)) for frame in frames)
        return KnownCameras(dict(named), str(file))
    except InputError:
        raise
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read cameras {file}: {error or type(error).__name__}; {FORMS}") from error


def _from_ours(frame: Mapping[str, Any], where: str) -> tuple[str, Camera]:
    about = frame.get("original", frame)
    lens = _matrix(about["intrinsics"], (3, 3))
    lens = lens_of([lens[0, 0], lens[1, 1], lens[0, 2], lens[1, 2]], where)
    return frame["name"], Camera(_matrix(frame["extrinsics"], (3, 4)), lens, (about["width"], about["height"]))


def _from_nerfstudio(frame: Mapping[str, Any], about: Mapping[str, Any], where: str) -> tuple[str, Camera]:
    values = {**about, **frame}
    if any(values.get(key) for key in ("k1", "k2", "k3", "k4", "p1", "p2")):
        raise InputError(f"{frame['file_path']} in {where} is distorted; undistort the pictures first")
    lens = lens_of([float(values[key]) for key in ("fl_x", "fl_y", "cx", "cy")], where)
    pose = _matrix(frame["transform_matrix"][:3], (3, 4))
    pose[:, :3] *= TO_OPENGL
    applied = _matrix(about.get("applied_transform", np.eye(3, 4))[:3], (3, 4))
    back = np.linalg.inv(applied[:, :3])
    pose = np.column_stack([back @ pose[:, :3], back @ (pose[:, 3] - applied[:, 3])])
    return frame["file_path"], Camera(invert(pose[None])[0], lens, (int(values["w"]), int(values["h"])))


def _from_colmap(folder: Path) -> dict[str, Camera]:
    cameras, named = colmap_cameras(folder / "cameras.txt"), {}
    for image in colmap_images(folder / "images.txt"):
        w, x, y, z = image.rotation
        turn = quaternion_to_matrix(torch.tensor([x, y, z, w], dtype=torch.float64)).numpy()
        size, lens = cameras[image.camera]
        named[image.name] = Camera(np.column_stack([turn, image.translation]), lens, size)
    return named


def _matrix(values: Any, shape: tuple[int, int]) -> NDArray[np.float64]:
    matrix = np.array(values, np.float64)
    if matrix.shape != shape:
        raise ValueError(f"a matrix is {list(matrix.shape)}, expected {list(shape)}")
    return matrix


def _keys(name: str) -> list[str]:
    """What a picture may be called elsewhere, the closest first: exports write plain names and other suffixes, and
    nerfstudio's lie in a folder."""
    plain = plain_path(name)
    paths = (plain, plain.removeprefix("images/"), PurePosixPath(plain).name)
    return list(dict.fromkeys([*paths, *(str(PurePosixPath(path).with_suffix("")) for path in paths)]))
