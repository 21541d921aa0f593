"""Intrinsics: from the user's pictures to the frames and back, and known ones from the user."""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.preprocess import frame_mappings

FORMS = (
    "give fx,fy,cx,cy, a COLMAP cameras.txt, or a .json file with fx, fy, cx and cy (for all, or for each file name)"
)
PINHOLES = {"SIMPLE_PINHOLE": (0, 0, 1, 2), "PINHOLE": (0, 1, 2, 3)}
"""COLMAP's camera models without distortion, and where among their parameters fx, fy, cx, cy are."""


def original_lens(lens: NDArray[Any], source: dict[str, Any]) -> NDArray[np.float64]:
    """Undo `pixel_in_clip = pixel_in_original * scale + offset` for intrinsics [3, 3]."""
    (scale_x, scale_y), (offset_x, offset_y) = source["scale"], source["offset"]
    back = np.array([[1 / scale_x, 0, -offset_x / scale_x], [0, 1 / scale_y, -offset_y / scale_y], [0, 0, 1]])
    return back @ lens.astype(np.float64)


def clip_lens(lens: NDArray[Any], source: dict[str, Any]) -> NDArray[np.float64]:
    """Intrinsics [3, 3] of the original picture in the clip's pixels."""
    (scale_x, scale_y), (offset_x, offset_y) = source["scale"], source["offset"]
    return np.array([[scale_x, 0, offset_x], [0, scale_y, offset_y], [0, 0, 1]]) @ lens.astype(np.float64)


def read_intrinsics(text: str) -> "Known":
    """What --intrinsics says: "fx,fy,cx,cy", a COLMAP cameras.txt, or a JSON file.

    COLMAP: PINHOLE or SIMPLE_PINHOLE cameras; with an images.txt beside it each picture's own, else by size.
    JSON: an object with fx, fy, cx, cy (or nerfstudio's fl_x, fl_y), or one of such objects by file name.
    Numbers are pixels of the upright pictures. Raises InputError if it is none of these.
    """
    path = Path(text).expanduser()
    if path.suffix.lower() == ".json":
        return _from_json(path)
    if path.suffix.lower() == ".txt" or path.is_file():
        return _from_colmap(path)
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4:
        raise InputError(f"cannot read intrinsics {text!r}; {FORMS}")
    return Known(everywhere=lens_of(numbers, "--intrinsics"))


class Known:
    """Intrinsics [3, 3] in pixels of the user's pictures: for every one, by file name, or by size (width, height)."""

    def __init__(
        self,
        everywhere: NDArray[np.float64] | None = None,
        by_name: dict[str, NDArray[np.float64]] | None = None,
        by_size: dict[tuple[int, int], NDArray[np.float64]] | None = None,
    ) -> None:
        self.everywhere, self.by_name, self.by_size = everywhere, by_name or {}, by_size or {}

    @property
    def key(self) -> list[Any]:
        """JSON-able; the same for the same intrinsics."""
        given: list[Any] = [["", self.everywhere], *sorted(self.by_name.items()), *sorted(self.by_size.items())]
        return [[name, None if lens is None else lens.tolist()] for name, lens in given]

    def of(self, clip: Clip) -> NDArray[np.float64]:
        """One for each frame of the clip: float64 [S, 3, 3].

        Raises InputError naming the first frame that has none, or whose picture the principal point lies outside of.
        """
        height, width = clip.images.shape[-2:]
        sources = frame_mappings(clip.source, len(clip.names))
        sizes = [(source["width"], source["height"]) for source in sources] or [(width, height)] * len(clip.names)
        return np.stack([self._of(name, size) for name, size in zip(clip.names, sizes, strict=True)])

    def _of(self, name: str, size: tuple[int, int]) -> NDArray[np.float64]:
        named = (self.by_name.get(key) for key in (name, PurePosixPath(name).name))
        found = next((lens for lens in (*named, self.by_size.get(size), self.everywhere) if lens is not None), None)
        if found is None:
            raise InputError(
                f"the given intrinsics have none for {name} ({size[0]}x{size[1]}); add it, or leave them out"
            )
        if not (0 < found[0, 2] < size[0] and 0 < found[1, 2] < size[1]):
            raise InputError(
                f"the given principal point ({found[0, 2]:g}, {found[1, 2]:g}) lies outside {name}, "
                f"{size[0]}x{size[1]}; give intrinsics in pixels of the upright picture"
            )
        return found


def _from_json(path: Path) -> Known:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read intrinsics {path}: {error}; {FORMS}") from error
    if not isinstance(read, dict):
        raise InputError(f"cannot read intrinsics {path}: not an object; {FORMS}")
    if "fx" in read or "fl_x" in read:
        return Known(everywhere=_of_object(read, path))
    return Known(by_name={name: _of_object(value, path) for name, value in read.items()})


def _of_object(value: Any, path: Path) -> NDArray[np.float64]:
    try:
        fx, fy = (value["fl_x"], value["fl_y"]) if "fl_x" in value else (value["fx"], value["fy"])
        return lens_of([float(number) for number in (fx, fy, value["cx"], value["cy"])], str(path))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read intrinsics {path}: it lacks a number {error}; {FORMS}") from error


def _from_colmap(path: Path) -> Known:
    try:
        cameras = colmap_cameras(path)
        beside = path.with_name("images.txt")
        if beside.is_file():
            return Known(by_name={image.name: cameras[image.camera][1] for image in colmap_images(beside)})
    except (OSError, ValueError, KeyError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read intrinsics {path}: {error}; {FORMS}") from error
    by_size: dict[tuple[int, int], NDArray[np.float64]] = {}
    for size, lens in cameras.values():
        if size in by_size and not np.array_equal(by_size[size], lens):
            raise InputError(
                f"{path} has several cameras of {size[0]}x{size[1]}; put its images.txt beside it, which says whose"
            )
        by_size[size] = lens
    return Known(by_size=by_size)


def colmap_cameras(path: Path) -> dict[str, tuple[tuple[int, int], NDArray[np.float64]]]:
    """Size (width, height) and intrinsics [3, 3] by number, of a cameras.txt.

    Raises InputError for a camera with distortion; OSError, ValueError or IndexError if it is no such file.
    """
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    cameras: dict[str, tuple[tuple[int, int], NDArray[np.float64]]] = {}
    for number, model, width, height, *numbers in rows:
        if model not in PINHOLES:
            raise InputError(f"camera {number} of {path} is {model}; undistort the pictures to PINHOLE first")
        lens = lens_of([float(numbers[place]) for place in PINHOLES[model]], str(path))
        cameras[number] = (int(width), int(height)), lens
    if not cameras:
        raise ValueError("no camera in it")
    return cameras


class ColmapImage(NamedTuple):
    """A line of an images.txt: quaternion wxyz, translation, number of the camera, file name."""

    rotation: list[float]
    translation: list[float]
    camera: str
    name: str


def colmap_images(path: Path) -> list[ColmapImage]:
    """Every other line that is no comment, observations may be an empty line.

    Raises OSError, ValueError or IndexError if it is no such file.
    """
    shown = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    words = [line.split(maxsplit=9) for line in shown[::2] if line.strip()]
    return [ColmapImage([*map(float, line[1:5])], [*map(float, line[5:8])], line[8], line[9]) for line in words]


def lens_of(numbers: Sequence[float], where: str) -> NDArray[np.float64]:
    """fx, fy, cx, cy as a matrix [3, 3]. Raises InputError, naming `where`, if they make no camera."""
    fx, fy, cx, cy = numbers
    if not (np.isfinite(numbers).all() and fx > 0 and fy > 0):
        raise InputError(f"intrinsics fx={fx:g}, fy={fy:g}, cx={cx:g}, cy={cy:g} in {where} make no camera; {FORMS}")
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
