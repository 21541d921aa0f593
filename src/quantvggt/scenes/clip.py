"""One sample: the frames of a scene, where they came from, and the truth where it is known."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from quantvggt.scenes.fingerprint import frame_prints

_WITH_PATHS = ("frames", "unrelated")  # keys of a clip's source that may say where the user's files lie


@dataclass(frozen=True)
class GroundTruth:
    """What a scene really is. OpenCV convention, world-to-camera; pixel centres lie at +0.5.

    extrinsics: float32 [S, 3, 4]; intrinsics: float32 [S, 3, 3] in pixels;
    depth: float32 [S, H, W], distance along the optical axis, 0 where there is none (sky);
    valid: bool [S, H, W], the pixels that a benchmark counts; None: those with depth.
    Cameras are NaN where a dataset has none.
    """

    extrinsics: Tensor
    intrinsics: Tensor
    depth: Tensor
    valid: Tensor | None = None


@dataclass(frozen=True)
class Clip:
    """S frames of one scene, all of one size.

    images: float32 [S, 3, H, W], RGB in [0, 1]; names: one per frame;
    source: what it was read from (JSON-able), kept as provenance;
    shown: bool [S, H, W], True where there is a picture; None: everywhere but in the white padding that `source` tells.
    """

    images: Tensor
    names: list[str]
    source: dict[str, Any] = field(default_factory=dict)
    truth: GroundTruth | None = None
    shown: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] != 3 or self.images.dtype != torch.float32:
            raise ValueError(f"images must be float32 [S, 3, H, W], got {self.images.dtype} {tuple(self.images.shape)}")
        if len(self.names) != len(self.images):
            raise ValueError(f"{len(self.images)} frames but {len(self.names)} names")
        expected = (len(self.images), *self.images.shape[2:])
        if self.shown is not None and (self.shown.shape != expected or self.shown.dtype != torch.bool):
            raise ValueError(f"shown must be bool {list(expected)}, got {self.shown.dtype} {list(self.shown.shape)}")

    def record(self) -> dict[str, Any]:
        """JSON-able: what a checkpoint says of a clip it was calibrated on; names of frames, but no paths.

        fingerprints: of the frames' files (`frame_prints`), if they are there; a synthetic scene has its seed.
        """
        told = {key: value for key, value in self.source.items() if key not in _WITH_PATHS}
        prints = None if self.source.get("kind") == "synthetic" else frame_prints(self.source)
        return {**told, "frames": self.names, **({} if prints is None else {"fingerprints": prints})}
