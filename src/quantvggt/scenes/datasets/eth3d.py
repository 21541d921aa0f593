"""ETH3D's high-resolution multi-view training scenes: photos of a DSLR with laser-scanned depth, in metres.

Photos, and the depth that comes with them, are distorted (THIN_PRISM_FISHEYE); both are straightened to a pinhole of
the same focal length and centre, depth by the nearest pixel. Published loaders leave out tangential and prism terms, as
is done here where a `Picture` is theirs.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from quantvggt.scenes.datasets.colmap_model import Posed, read_model
from quantvggt.scenes.datasets.contract import Picture
from quantvggt.scenes.datasets.on_disk import OnDisk
from quantvggt.scenes.datasets.read import Floats, read_bytes, read_pixels, unreadable
from quantvggt.scenes.datasets.views import View

PHOTOS = "dslr_images"


class Eth3d(OnDisk):
    name: ClassVar[str] = "eth3d"
    title: ClassVar[str] = "ETH3D, DSLR photos with laser scans, 13 training scenes"
    licence: ClassVar[str] = "CC BY-NC-SA 4.0"
    source: ClassVar[str] = "eth3d.net, multi_view_training_dslr_jpg.7z and SCENE_dslr_depth.7z"
    splits: ClassVar[dict[str, Sequence[str]]] = {
        "test": (
            *("courtyard", "delivery_area", "electro", "facade", "kicker", "meadow", "office", "pipes"),
            *("playground", "relief", "relief_2", "terrace", "terrains"),
        )
    }

    def __init__(self, root: Path | None) -> None:
        self._known: dict[str, dict[str, Posed]] = {}
        super().__init__(root)

    def parts(self, scene: str) -> Sequence[Path]:
        inner = ("images", "dslr_calibration_jpg", "ground_truth_depth")
        return [self.root / scene / part for part in inner]

    def frames(self, scene: str) -> Sequence[str]:
        return sorted(self._images(scene))

    def view(self, scene: str, frame: str, picture: Picture) -> View:
        folder = self.root / scene
        path = folder / "images" / PHOTOS / frame
        image = read_pixels(path)
        camera, extrinsics = self._images(scene)[frame]
        if (camera.width, camera.height) != image.size:
            raise unreadable(
                path, f"it has {image.width}x{image.height} pixels, its camera {camera.width}x{camera.height}"
            )
        if picture.published:
            camera = replace(camera, tangential=(0.0, 0.0), prism=(0.0, 0.0))
        depth = _raw(folder / "ground_truth_depth" / PHOTOS / frame, camera.height, camera.width)
        straight = camera.straighten(image, depth)
        return View(frame, path, straight[0], camera.lens, extrinsics, straight[1])

    def _images(self, scene: str) -> dict[str, Posed]:
        if scene not in self._known:
            found = read_model(self.root / scene / "dslr_calibration_jpg")
            self._known[scene] = {Path(name).name: posed for name, posed in found.items()}
        return self._known[scene]


def _raw(path: Path, height: int, width: int) -> Floats:
    """Float32 without a header, row by row; infinity where the scan has nothing."""
    data = read_bytes(path)
    if len(data) != 4 * height * width:
        raise unreadable(path, f"it has {len(data)} bytes, {width}x{height} floats have {4 * height * width}")
    return np.frombuffer(data, "<f4").reshape(height, width)
