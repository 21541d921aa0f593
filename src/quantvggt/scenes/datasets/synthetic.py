"""Procedural scenes that no training and no calibration has seen."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.datasets.contract import Dataset
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clip

COUNT = 100


class Synthetic(Dataset):
    """`scenes.synthetic`; a scene's name is its seed, `seed` is how many scenes are passed over."""

    name: ClassVar[str] = "synthetic"

    def __init__(self, root: Path | None) -> None:
        if root is not None:
            raise InputError(f"dataset synthetic needs no files; leave {root} out")
        super().__init__(root)

    def scenes(self, count: int | None, seed: int) -> Sequence[str]:
        first = HELD_OUT_SEED + seed
        return [str(number) for number in range(first, first + (COUNT if count is None else count))]

    def clip(self, scene: str, frames: int, size: int) -> Clip:
        return make_clip(int(scene), frames, size)
