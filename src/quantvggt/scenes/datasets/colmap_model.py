"""COLMAP's models, text or binary: the camera and the pose of each image. Format: https://colmap.github.io/format.html."""

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from quantvggt.core.errors import InputError
from quantvggt.scenes.datasets.camera import MODELS, Camera, make_camera
from quantvggt.scenes.datasets.read import Matrix, read_bytes, read_fields, unreadable

MOST_BYTES = 2**33
"""Of a binary images file: observations are in it."""


class Posed(NamedTuple):
    """An image's camera, and where it stood: world-to-camera [3, 4]."""

    camera: Camera
    extrinsics: Matrix


def find_model(folder: Path) -> Path | None:
    """Where in a project's folder the model lies, `sparse/0` first; None if there is none."""
    for place in (folder / "sparse" / "0", folder / "sparse", folder / "colmap" / "sparse" / "0", folder):
        if any(
            (place / f"images.{kind}").is_file() and (place / f"cameras.{kind}").is_file() for kind in ("bin", "txt")
        ):
            return place
    return None


def read_model(folder: Path) -> dict[str, Posed]:
    """The images of the model in `folder` by name; the binary files are read if both kinds are there.

    Raises InputError that names the file if one is missing or damaged.
    """
    kind = "bin" if (folder / "images.bin").is_file() else "txt"
    read_cameras, read_images = (_binary_cameras, _binary_images) if kind == "bin" else (_text_cameras, _text_images)
    path, beside = folder / f"images.{kind}", folder / f"cameras.{kind}"
    data, told = read_bytes(path, MOST_BYTES), read_bytes(beside)
    cameras = read_fields(beside, told, read_cameras)
    images: dict[str, Posed] = read_fields(path, data, lambda found: read_images(found, cameras))
    if not images:
        raise unreadable(path, "there are no images in it")
    return images


def pose_of(quaternion: Matrix, translation: Matrix) -> Matrix:
    """Quaternion wxyz, of any length but 0, and translation to [3, 4]; NaN if the quaternion is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        w, x, y, z = quaternion / np.linalg.norm(quaternion)
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.column_stack([np.array(rotation), translation])


def _text_cameras(data: bytes) -> dict[int, Camera]:
    rows = [line.split() for line in data.decode().splitlines() if line.strip() and not line.startswith("#")]
    return {int(n): make_camera(model, int(w), int(h), [float(v) for v in values]) for n, model, w, h, *values in rows}


def _text_images(data: bytes, cameras: dict[int, Camera]) -> dict[str, Posed]:
    """Two lines an image; the second, its observations, may be empty."""
    lines = [line for line in data.decode().splitlines() if not line.startswith("#")]
    images = {}
    for line in lines[::2]:
        if line.strip():
            _, *numbers, camera, name = line.split(maxsplit=9)
            values = np.array(numbers, np.float64)
            images[name.strip()] = Posed(cameras[int(camera)], pose_of(values[:4], values[4:]))
    return images


def _binary_cameras(data: bytes) -> dict[int, Camera]:
    (count,), place, names = _unpack("<Q", data, 0), 8, list(MODELS)
    cameras = {}
    for _ in range(count):
        number, model, width, height = _unpack("<iiQQ", data, place)
        if not 0 <= model < len(names):
            raise InputError(f"camera {number} has COLMAP's model number {model}, which can't be read")
        parameters = len(MODELS[names[model]].split())
        values = _unpack(f"<{parameters}d", data, place + 24)
        cameras[number] = make_camera(names[model], width, height, values)
        place += 24 + 8 * parameters
    return cameras


def _binary_images(data: bytes, cameras: dict[int, Camera]) -> dict[str, Posed]:
    (count,), place = _unpack("<Q", data, 0), 8
    images = {}
    for _ in range(count):
        _, *numbers, camera = _unpack("<i7di", data, place)
        end = data.index(b"\0", place + 64)
        name = data[place + 64 : end].decode()
        (observations,) = _unpack("<Q", data, end + 1)
        place = end + 9 + 24 * observations
        images[name] = Posed(cameras[camera], pose_of(np.array(numbers[:4]), np.array(numbers[4:])))
    return images


def _unpack(form: str, data: bytes, place: int) -> tuple[Any, ...]:
    try:
        return struct.unpack_from(form, data, place)
    except struct.error as error:
        raise ValueError(f"it ends too early ({error})") from error
