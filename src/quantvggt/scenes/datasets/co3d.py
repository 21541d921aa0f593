"""CO3Dv2: objects filmed by walking around them, with cameras by COLMAP; no depth.

Annotations are those of VGGT's evaluation, `<category>_test.jgz`, in the root or a folder in it, still in PyTorch3D's
convention. A category that has none gets it in memory from CO3D's own files, by the same rules: the frames that
`set_lists_fewview_dev.json` names, of sequences whose viewpoints score above 0.5.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from quantvggt.scenes.datasets.contract import Picture
from quantvggt.scenes.datasets.on_disk import OnDisk
from quantvggt.scenes.datasets.read import Matrix, inside, read_fields, read_json, read_packed_json, read_pixels
from quantvggt.scenes.datasets.views import View, pinhole

_CATEGORIES = """apple backpack banana baseballbat baseballglove bench bicycle bottle bowl broccoli cake car carrot
cellphone chair cup donut hairdryer handbag hydrant keyboard laptop microwave motorcycle mouse orange parkingmeter pizza
plant stopsign teddybear toaster toilet toybus toyplane toytrain toytruck tv umbrella vase wineglass"""
_OTHERS = "ball book couch frisbee hotdog kite remote sandwich skateboard suitcase"
CATEGORIES, OTHERS = tuple(_CATEGORIES.split()), tuple(_OTHERS.split())
"""Those that VGGT and QuantVGGT average, and those that Pi3 adds."""
FAR = 1e5
"""A sequence with a frame whose translation's parts sum up to more is broken."""
WELL_SEEN = 0.5

Frames = dict[str, dict[str, Any]]  # by the path of the picture


class Co3d(OnDisk):
    """A scene is "category/sequence", or "train:category/sequence". Splits: test, test-51 (with the 10 categories that
    Pi3 adds), train."""

    name: ClassVar[str] = "co3d"
    title: ClassVar[str] = "CO3Dv2, poses of objects filmed all around"
    licence: ClassVar[str] = "CC BY-NC 4.0"
    source: ClassVar[str] = "github.com/facebookresearch/co3d"
    splits: ClassVar[dict[str, Sequence[str]]] = {
        "test": CATEGORIES,
        "test-51": CATEGORIES + OTHERS,
        "train": CATEGORIES,
    }

    def __init__(self, root: Path | None) -> None:
        self._known: dict[tuple[str, str], dict[str, Frames] | None] = {}
        super().__init__(root)

    def official(self, split: str) -> Sequence[str]:
        """Of the categories that have annotations; without them nobody knows."""
        before = "train:" if split == "train" else ""
        return [
            f"{before}{category}/{sequence}"
            for category in super().official(split)
            for sequence in self._annotations(category, split) or ()
        ]

    def scenes(self, split: str = "test") -> Sequence[str]:
        """All that are annotated: published draws choose among these, whatever is on disk."""
        return self.official(split)

    def missing(self, split: str = "test") -> Sequence[str]:
        unknown = [name for name in super().official(split) if self._annotations(name, split) is None]
        return [*(f"category {name}: no {name}_{_kind(split)}.jgz" for name in unknown), *super().missing(split)]

    def looked_for(self) -> str:
        return "apple_test.jgz, ..., or apple/frame_annotations.jgz, ..."

    def parts(self, scene: str) -> Sequence[Path]:
        return [self.root / scene.removeprefix("train:") / "images"]

    def category(self, scene: str) -> str:
        return scene.removeprefix("train:").split("/")[0]

    def frames(self, scene: str) -> Sequence[str]:
        """None of a sequence that is broken or isn't on disk."""
        found = self._frames(scene)
        broken = any(sum(frame["T"]) > FAR for frame in found.values())
        return () if broken or self._lacks(scene) else list(found)

    def view(self, scene: str, frame: str, picture: Picture) -> View:
        path = inside(self.root, frame)
        image, told = read_pixels(path), self._frames(scene)[frame]
        return View(frame, path, image, camera_lens(told, *image.size), camera_pose(told))

    def _frames(self, scene: str) -> Frames:
        category, sequence = scene.removeprefix("train:").split("/", 1)
        split = "train" if scene.startswith("train:") else "test"
        return (self._annotations(category, split) or {})[sequence]

    def _annotations(self, category: str, split: str) -> dict[str, Frames] | None:
        """The frames of each sequence, in the order of the file; None if there is no file to tell."""
        key = category, _kind(split)
        if key not in self._known:
            self._known[key] = self._read(*key)
        return self._known[key]

    def _read(self, category: str, kind: str) -> dict[str, Frames] | None:
        name = f"{category}_{kind}.jgz"
        path = next((path for path in (self.root / name, *sorted(self.root.glob(f"*/{name}"))) if path.is_file()), None)
        if path is not None:
            read = read_packed_json(path)
            return read_fields(path, read, lambda told: {str(name): _by_path(told[name]) for name in told})
        path = self.root / category / "frame_annotations.jgz"
        if not path.is_file():
            return None
        return read_fields(path, None, lambda _: _from_official(path.parent, kind))


def camera_pose(frame: dict[str, Any]) -> Matrix:
    """World-to-camera [3, 4], OpenCV, from PyTorch3D's `R` and `T`: row vectors, x left and y up."""
    turn = np.array([-1.0, -1.0, 1.0])
    rotation = np.array(frame["R"], np.float64) * turn
    return np.column_stack([rotation.T, np.array(frame["T"], np.float64) * turn])


def camera_lens(frame: dict[str, Any], width: int, height: int) -> Matrix:
    """Intrinsics [3, 3] in pixels, from "ndc_isotropic" ones: half the shorter side is 1, x left and y up."""
    unit = min(width, height) / 2
    (fx, fy), (px, py) = frame["focal_length"], frame["principal_point"]
    return pinhole(fx * unit, fy * unit, width / 2 - px * unit, height / 2 - py * unit)


def _kind(split: str) -> str:
    return "train" if split == "train" else "test"


def _by_path(frames: list[dict[str, Any]]) -> Frames:
    return {frame["filepath"]: _checked(frame) for frame in frames}


def _checked(frame: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError unless the camera's numbers are there."""
    shapes = {"R": (3, 3), "T": (3,), "focal_length": (2,), "principal_point": (2,)}
    for name, shape in shapes.items():
        if np.array(frame[name], np.float64).shape != shape:
            raise ValueError(f"{name} of {frame['filepath']} isn't {shape}")
    return {name: frame[name] for name in shapes}


def _from_official(folder: Path, kind: str) -> dict[str, Frames]:
    """What the evaluation's annotations of a category are made of."""
    listed = read_json(folder / "set_lists" / "set_lists_fewview_dev.json")[kind]
    scores = read_packed_json(folder / "sequence_annotations.jgz")
    seen = {told["sequence_name"] for told in scores if (told["viewpoint_quality_score"] or 0) > WELL_SEEN}
    wanted = {(name, number) for name, number, _ in listed if name in seen}
    told = {}
    for frame in read_packed_json(folder / "frame_annotations.jgz"):
        if (key := (frame["sequence_name"], frame["frame_number"])) in wanted:
            told[key] = _checked({"filepath": frame["image"]["path"], **_isotropic(frame)})
    found: dict[str, Frames] = {}
    for name, number, path in listed:
        if (name, number) in told:
            found.setdefault(name, {})[path] = told[name, number]
    return found


def _isotropic(frame: dict[str, Any]) -> dict[str, Any]:
    """The viewpoint of an official annotation, its intrinsics in units of half the shorter side."""
    viewpoint = frame["viewpoint"]
    if viewpoint.get("intrinsics_format", "ndc_isotropic") == "ndc_isotropic":
        return dict(viewpoint)
    height, width = frame["image"]["size"]
    units = width / min(width, height), height / min(width, height)
    scaled = {
        name: [value * unit for value, unit in zip(viewpoint[name], units, strict=True)]
        for name in ("focal_length", "principal_point")
    }
    return {**viewpoint, **scaled}
