"""What a dataset is: scenes with truth, read as they lie on disk."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from quantvggt.core.errors import InputError
from quantvggt.scenes import preprocess
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.preprocess import PATCH

MODES = {
    "stretch": "width `size`, height `height`, aspect or not, bicubic",
    "pi3": "as Pi3's pose evaluation: Lanczos to width `size`, then bilinear down to multiples of 14",
    "uniform": "as Pi3's point maps: stretched, but the intrinsics of both axes scaled by what the height was",
    "crop-resize": "as CUT3R and QuantVGGT: cut around the principal point, scaled, cut to `size` x `height`",
}
"""Ways to prepare pictures beside those of `preprocess.MODES`, which models have."""
PUBLISHED = ("uniform", "crop-resize")
"""Modes that repeat what published loaders do to truth, their slips included; in all others truth is exact."""


@dataclass(frozen=True)
class Picture:
    """How pixels, and the truth with them, are prepared.

    size: width in pixels, or what a model's mode calls so; mode: one of `MODES` or of `preprocess.MODES`;
    height: of the modes that name one, None: the nearest multiple of 14 to the aspect. Raises InputError if the mode is
    unknown or a size is no positive multiple of 14 (or of 16 in "crop-resize"; "pi3" takes any from 14).
    """

    size: int
    mode: str = "crop"
    height: int | None = None

    def __post_init__(self) -> None:
        known = (*preprocess.MODES, *MODES)
        if self.mode not in known:
            raise InputError(f"unknown way to prepare pictures {self.mode!r}; choose one of: {', '.join(known)}")
        if self.height is not None and (self.mode in preprocess.MODES or self.mode == "pi3"):
            raise InputError(f"pictures in mode {self.mode} have the height that follows from their width")
        steps = {"pi3": (1,), "crop-resize": (PATCH, 16)}.get(self.mode, (PATCH,))
        for side in (self.size, self.height):
            if side is not None and (side < PATCH or all(side % step for step in steps)):
                raise InputError(f"picture size {side} is not a positive multiple of {PATCH}; VGGT was trained at 518")

    @property
    def published(self) -> bool:
        """Is truth prepared as published loaders do it, their slips included?"""
        return self.mode in PUBLISHED


class Dataset(ABC):
    """One dataset at `root`, the folder that its official download makes; None for those that need no files.

    name, title; licence: in words; source: where its owners give it out. Nothing is ever downloaded.
    usual: how many scenes an evaluation takes that isn't told; None: all.
    Raises InputError if `root` holds nothing of it: what is missing, where it comes from, under which licence.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    licence: ClassVar[str] = ""
    source: ClassVar[str] = ""
    usual: ClassVar[int | None] = None

    def __init__(self, root: Path | None) -> None:
        self.root = root

    @abstractmethod
    def scenes(self, split: str = "test") -> Sequence[str]:
        """The names of the scenes that are there, in the official order. Raises InputError on an unknown split."""

    @abstractmethod
    def frames(self, scene: str) -> Sequence[str]:
        """The names of the frames that have truth, in the official order; none if the scene's truth can't be used."""

    @abstractmethod
    def clip(self, scene: str, frames: Sequence[int], picture: Picture) -> Clip:
        """Those frames, by their places in `frames(scene)`, with their truth: what is done to pixels is done to it.

        Depth is 0 where there is none. `source["frames"]` of the clip holds for each frame the `path` it was read from.
        Raises InputError that names the file if one is missing or damaged.
        """

    def category(self, scene: str) -> str:
        """What a protocol may pool a scene by; "" if there is no such thing."""
        return ""

    def missing(self, split: str = "test") -> Sequence[str]:
        """What the official split has and `root` lacks, one line each: without it numbers aren't the tables'."""
        return ()
