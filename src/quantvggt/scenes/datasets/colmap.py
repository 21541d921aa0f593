"""Anybody's own project as truth: COLMAP's model of photos, text or binary, or nerfstudio's transforms.json; no depth.

A scene is a project's folder: the root itself ("."), or each folder in it. COLMAP: cameras and images in `sparse/0` (or
`sparse`, or the folder itself), photos in `images`. Distortion is taken out of the pictures.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from quantvggt.core.errors import InputError
from quantvggt.scenes.datasets.camera import Camera, make_camera
from quantvggt.scenes.datasets.colmap_model import Posed, find_model, read_model
from quantvggt.scenes.datasets.contract import Picture
from quantvggt.scenes.datasets.on_disk import OnDisk
from quantvggt.scenes.datasets.read import inside, read_fields, read_json, read_pixels, unreadable
from quantvggt.scenes.datasets.views import OPENGL, View, inverse
from quantvggt.scenes.names import natural_order

TRANSFORMS = "transforms.json"


class Colmap(OnDisk):
    name: ClassVar[str] = "colmap"
    title: ClassVar[str] = "your own COLMAP or nerfstudio project as truth, poses without depth"
    licence: ClassVar[str] = "yours"
    source: ClassVar[str] = "colmap.github.io or docs.nerf.studio, from your photos"
    splits: ClassVar[dict[str, Sequence[str]]] = {"test": ()}

    def __init__(self, root: Path | None) -> None:
        self._known: dict[str, dict[str, tuple[Path, Posed]]] = {}
        super().__init__(root)

    def official(self, split: str) -> Sequence[str]:
        super().official(split)
        if _is_project(self.root):
            return ["."]
        return sorted(
            (f.name for f in self.root.iterdir() if _is_project(f)), key=lambda name: natural_order(Path(name))
        )

    def looked_for(self) -> str:
        return f"sparse/0/images.bin, sparse/0/images.txt or {TRANSFORMS}, there and in each folder"

    def parts(self, scene: str) -> Sequence[Path]:
        return [self.root / scene]

    def frames(self, scene: str) -> Sequence[str]:
        """In natural order of their names."""
        return list(self._images(scene))

    def view(self, scene: str, frame: str, picture: Picture) -> View:
        path, (camera, extrinsics) = self._images(scene)[frame]
        image = read_pixels(path)
        camera = camera.scaled(*image.size)
        return View(frame, path, camera.straighten(image)[0], camera.lens, extrinsics)

    def _images(self, scene: str) -> dict[str, tuple[Path, Posed]]:
        if scene not in self._known:
            folder = self.root / scene
            found = _from_nerfstudio(folder) if (folder / TRANSFORMS).is_file() else _from_colmap(folder)
            ordered = sorted(found.items(), key=lambda item: natural_order(Path(item[0])))
            self._known[scene] = dict(ordered)
        return self._known[scene]


def _is_project(folder: Path) -> bool:
    return folder.is_dir() and ((folder / TRANSFORMS).is_file() or find_model(folder) is not None)


def _from_colmap(folder: Path) -> dict[str, tuple[Path, Posed]]:
    place = find_model(folder)
    if place is None:
        raise InputError(f"{folder} has no COLMAP model; it has gone since the dataset was opened")
    near = [base / "images" for base in (place, *place.parents) if base == folder or folder in base.parents]
    photos = next((images for images in near if images.is_dir()), None)
    if photos is None:
        raise InputError(f"{folder} has a COLMAP model, but no folder images with its photos; put them there")
    return {name: (inside(photos, name), posed) for name, posed in read_model(place).items()}


def _from_nerfstudio(folder: Path) -> dict[str, tuple[Path, Posed]]:
    path = folder / TRANSFORMS
    return read_fields(path, read_json(path), partial(_of_transforms, path))


def _of_transforms(path: Path, told: dict[str, Any]) -> dict[str, tuple[Path, Posed]]:
    found = {}
    for frame in told["frames"]:
        name = str(Path(frame["file_path"]))
        photo = inside(path.parent, name)
        if not photo.suffix:  # as in NeRF's own synthetic scenes
            photo = photo.with_suffix(".png")
        pose = np.array(frame["transform_matrix"], np.float64)
        if pose.shape not in ((3, 4), (4, 4)):
            raise ValueError(f"transform_matrix of {name} is {pose.shape}")
        found[name] = photo, Posed(_camera({**told, **frame}, photo), inverse(pose[:3] * OPENGL))
    if not found:
        raise unreadable(path, "there are no frames in it")
    return found


def _camera(told: dict[str, Any], photo: Path) -> Camera:
    width, height = (told["w"], told["h"]) if "w" in told and "h" in told else read_pixels(photo).size
    focal = told["fl_x"] if "fl_x" in told else width / 2 / np.tan(told["camera_angle_x"] / 2)
    values = {
        "fx": focal,
        "fy": told.get("fl_y", focal),
        "cx": told.get("cx", width / 2),
        "cy": told.get("cy", height / 2),
    }
    values |= {name: told[name] for name in ("k1", "k2", "k3", "k4", "p1", "p2") if name in told}
    model = told.get("camera_model", "OPENCV" if "k1" in told else "PINHOLE")
    model = {"SIMPLE_PINHOLE": "PINHOLE", "OPENCV": "FULL_OPENCV"}.get(model, model)  # OPENCV may have k3 here
    return make_camera(model, int(width), int(height), {name: float(value) for name, value in values.items()})
