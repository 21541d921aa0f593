"""What comes out: cameras, depth, points, confidences and colours of one scene."""

import os
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.points import MIN_CONFIDENCE


@dataclass(frozen=True, eq=False)
class Scene:
    """S frames of H x W pixels, all arrays in NumPy.

    names: one per frame; images: uint8 [S, H, W, 3], RGB.
    extrinsics: float32 [S, 3, 4], world-to-camera, OpenCV (x right, y down, z forward);
    intrinsics: float32 [S, 3, 3], pixels of these images, pixel centres at +0.5.
    depth: float32 [S, H, W] along the optical axis, 0 = no value; depth_conf: float32 [S, H, W].
    points: float32 [S, H, W, 3], in the world, the first camera's frame as the model predicts it;
    points_conf: float32 [S, H, W]. Higher is surer; 0 marks pixels without a value. The unit of length is the
    model's own; where provenance["scale"] is "metric" the metre, and with given extrinsics world and unit are theirs.
    provenance: JSON-able; what made the scene and from which images.
    Raises InputError if a shape or dtype is wrong.
    """

    names: list[str]
    images: NDArray[np.uint8]
    extrinsics: NDArray[np.float32]
    intrinsics: NDArray[np.float32]
    depth: NDArray[np.float32]
    depth_conf: NDArray[np.float32]
    points: NDArray[np.float32]
    points_conf: NDArray[np.float32]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count, (height, width) = len(self.names), self.images.shape[1:3]
        if count == 0:
            raise InputError("a scene needs at least one frame")
        expected: dict[str, tuple[type, tuple[int, ...]]] = {
            "images": (np.uint8, (count, height, width, 3)),
            "extrinsics": (np.float32, (count, 3, 4)),
            "intrinsics": (np.float32, (count, 3, 3)),
            "depth": (np.float32, (count, height, width)),
            "depth_conf": (np.float32, (count, height, width)),
            "points": (np.float32, (count, height, width, 3)),
            "points_conf": (np.float32, (count, height, width)),
        }
        for name, (dtype, shape) in expected.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                wanted = f"{np.dtype(dtype).name} {list(shape)}"
                raise InputError(f"scene.{name} must be {wanted}, got {array.dtype} {list(array.shape)}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.images.shape[1], self.images.shape[2]

    def transformed(
        self,
        scale: float = 1.0,
        rotation: NDArray[np.floating] | None = None,
        translation: NDArray[np.floating] | None = None,
    ) -> "Scene":
        """The same scene in another world, to which x -> scale * rotation @ x + translation leads from this one's.

        rotation [3, 3], by default none; translation [3], by default none. provenance["scale"] has the product of all
        scales since the model. Raises InputError unless scale is finite and above 0.
        """
        if not 0 < scale < np.inf:
            raise InputError(f"scale is {scale}; give a finite number above 0")
        turn = np.eye(3) if rotation is None else np.asarray(rotation, np.float64)
        shift = np.zeros(3) if translation is None else np.asarray(translation, np.float64)
        cameras = self.extrinsics.astype(np.float64)
        turned = cameras[:, :, :3] @ turn.T
        moved = scale * cameras[:, :, 3] - turned @ shift
        return replace(
            self,
            extrinsics=np.concatenate([turned, moved[:, :, None]], axis=2).astype(np.float32),
            depth=self.depth * np.float32(scale),
            points=(scale * self.points.astype(np.float64) @ turn.T + shift).astype(np.float32),
            provenance={**self.provenance, "scale": scale * self.provenance.get("scale", 1.0)},
        )

    def save(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write scene.npz (everything, for `Scene.load`) and cameras.json (for people) into a folder.

        Raises InputError if they exist and overwrite is False, or can't be written.
        """
        self.export(folder, formats=("npz", "cameras"), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Scene":
        """Read what `save` wrote: the folder, or its scene.npz. Never runs code from the file.

        Raises InputError if there is no scene at that path or it is damaged.
        """
        from quantvggt.reconstruction.export.npz import read_npz

        path = Path(path)
        file = path / "scene.npz" if path.is_dir() else path
        if not file.is_file():
            raise InputError(f"no saved scene at {path}; give a folder with a scene.npz, as `reconstruct` writes it")
        try:
            return read_npz(file)
        except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError, zlib.error) as error:
            raise InputError(f"{file} is not a scene, or is damaged: {error}; run `reconstruct` again") from error

    def export(
        self,
        folder: str | os.PathLike[str],
        formats: Iterable[str],
        min_confidence: float = MIN_CONFIDENCE,
        max_points: int | None = None,
        seed: int = 0,
        overwrite: bool = False,
        **options: Any,
    ) -> dict[str, Path]:
        """Write the scene into a folder in other programs' formats.

        formats: any of "cameras" (cameras.json), "colmap" (colmap/: the pictures and a model in sparse/0), "ply"
        (points.ply), "glb" (scene.glb, points and cameras), "depth" (depth/: PNG, NPZ, previews), "npz" (scene.npz,
        everything), "nerfstudio" (nerfstudio/: the pictures, transforms.json, points) and "tum" (trajectory.txt).
        min_confidence, max_points, seed and options: the fields of `export.options.ExportOptions`. With overwrite,
        files and sub-folders of these names are replaced.
        Returns where each format was written. Raises InputError for an unknown format or option, an argument out of
        range, a file that exists, one of the user's pictures that is gone, or a folder that can't be written.
        """
        from quantvggt.reconstruction.export import export, make_options

        chosen = make_options(min_confidence=min_confidence, max_points=max_points, seed=seed, **options)
        return export(self, Path(folder), formats, chosen, overwrite)
