"""Procedural scenes that no training and no calibration has seen."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.datasets.contract import Dataset, Picture
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clip

SCENES, FRAMES = 1_000_000, 1_000
"""How many are named: there is no end to them."""


class Synthetic(Dataset):
    """`scenes.synthetic`, square frames; a scene's name is its seed."""

    name: ClassVar[str] = "synthetic"
    title: ClassVar[str] = "procedural scenes with exact truth"
    licence: ClassVar[str] = "part of this package"
    source: ClassVar[str] = "made when asked for"
    usual: ClassVar[int | None] = 100

    def __init__(self, root: Path | None) -> None:
        if root is not None:
            raise InputError(f"dataset synthetic needs no files; leave {root} out")
        super().__init__(root)

    def scenes(self, split: str = "test") -> Sequence[str]:
        if split != "test":
            raise InputError(f"dataset synthetic has no split {split!r}; use test")
        return _Numbers(HELD_OUT_SEED, SCENES)

    def frames(self, scene: str) -> Sequence[str]:
        return _Numbers(0, FRAMES, f"synthetic_{scene}_", 3)

    def clip(self, scene: str, frames: Sequence[int], picture: Picture) -> Clip:
        """Cameras are spread over the frames asked for, so these must be the first ones."""
        if list(frames) != list(range(len(frames))):
            raise InputError(f"a synthetic scene has the frames 0, 1, ... that it is asked for, not {list(frames)[:4]}")
        return make_clip(int(scene), len(frames), picture.size)


class _Numbers(Sequence[str]):
    """Consecutive numbers as text."""

    def __init__(self, first: int, count: int, before: str = "", digits: int = 1) -> None:
        self.numbers, self.before, self.digits = range(first, first + count), before, digits

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        if isinstance(place, slice):
            return _Numbers(self.numbers[place][0], len(self.numbers[place]), self.before, self.digits)
        return f"{self.before}{self.numbers[place]:0{self.digits}d}"
