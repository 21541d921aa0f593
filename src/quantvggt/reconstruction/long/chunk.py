"""One chunk: what the model said of a run of frames, in its own world; kept on disk while others are worked on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quantvggt.jobs.store import Store
from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.preprocess import frame_mappings

Floats = NDArray[np.float32]
ARRAYS = ("extrinsics", "intrinsics", "depth", "depth_conf", "points", "points_conf")
_LISTED = ("frames", "names", "about", "provenance", "left_out", "borrowed", "keys")
NO_FEATURES = np.zeros((0, 1), np.float32)


@dataclass(frozen=True)
class Chunk:
    """n frames of a sequence, those at its places `frames`, ascending.

    names, about (where each was read from, with its mapping) and images uint8 [n, H, W, 3] of these frames; the arrays
    are a Scene's. keys: the places of some of them, features: float32 [len(keys), D], what the model sees in each of
    these alone. left_out: names of frames of which the model said nothing finite; borrowed: places of frames whose lens
    is that of others.
    """

    frames: list[int]
    names: list[str]
    about: list[dict[str, Any]]
    images: NDArray[np.uint8]
    extrinsics: Floats
    intrinsics: Floats
    depth: Floats
    depth_conf: Floats
    points: Floats
    points_conf: Floats
    provenance: dict[str, Any]
    left_out: list[str]
    borrowed: list[int]
    keys: list[int]
    features: Floats

    @classmethod
    def of(
        cls, scene: Scene, frames: Sequence[int], left_out: list[str], keys: Sequence[int], features: Floats
    ) -> "Chunk":
        """frames: the places of the scene's frames."""
        source = scene.provenance.get("source", {})
        provenance = {key: value for key, value in scene.provenance.items() if key not in ("source", "borrowed_lens")}
        lent = scene.provenance.get("borrowed_lens", ())
        provenance["source"] = {key: value for key, value in source.items() if key != "frames"}
        about = frame_mappings(source, len(frames)) or [{} for _ in frames]
        arrays: dict[str, Any] = {name: getattr(scene, name) for name in ("images", *ARRAYS)}
        known: dict[str, Any] = {
            "provenance": provenance,
            "left_out": left_out,
            "borrowed": [frame for frame, name in zip(frames, scene.names, strict=True) if name in lent],
            "keys": list(keys),
            "features": features,
        }
        return cls(list(frames), scene.names, about, **arrays, **known)

    def only(self, frames: Sequence[int]) -> "Chunk":
        """With these of its places alone, ascending; without features."""
        rows = [self.row(frame) for frame in frames]
        arrays: dict[str, Any] = {name: getattr(self, name)[rows] for name in ("images", *ARRAYS)}
        names, about = [self.names[row] for row in rows], [self.about[row] for row in rows]
        kept: dict[str, Any] = {"frames": list(frames), "names": names, "about": about}
        kept["borrowed"] = [frame for frame in self.borrowed if frame in frames]
        return replace(self, keys=[], features=NO_FEATURES, **kept, **arrays)

    @property
    def own(self) -> list[int]:
        """The places of frames whose lens is their own."""
        return [frame for frame in self.frames if frame not in self.borrowed]

    def row(self, frame: int) -> int:
        """Which of its rows a place of the sequence is."""
        return self.frames.index(frame)


def write_chunk(store: Store, name: str, chunk: Chunk) -> None:
    """Raises InputError if the folder can't be written."""
    tensors = {key: torch.from_numpy(getattr(chunk, key)) for key in ("images", "features", *ARRAYS)}
    values = {key: getattr(chunk, key) for key in _LISTED}
    store.write_tensors(name, tensors, values)


def read_chunk(store: Store, name: str) -> Chunk | None:
    """None if there is none of this task."""
    kept = store.read_tensors(name)
    if kept is None:
        return None
    tensors, values = kept
    arrays: dict[str, Any] = {key: tensor.numpy() for key, tensor in tensors.items()}
    return Chunk(**values, **arrays)
