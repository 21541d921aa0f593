"""What a dataset is: scenes with truth, read as they lie on disk."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip


class Dataset(ABC):
    """One dataset at `root`, the folder that its official download makes; None for those that need no files.

    Raises InputError if something is missing there: what it is, where it comes from, under which licence.
    """

    name: ClassVar[str]

    def __init__(self, root: Path | None) -> None:
        self.root = root

    @abstractmethod
    def scenes(self, count: int | None, seed: int) -> Sequence[str]:
        """The names of the scenes that an evaluation of `count` of them takes (None: of all), drawn by `seed` if there
        is a choice."""

    @abstractmethod
    def clip(self, scene: str, frames: int, size: int) -> Clip:
        """`frames` frames of a scene, `size` pixels wide, with their truth: what is done to pixels is done to it."""

    def clips(self, count: int | None, seed: int, frames: int, size: int) -> list[Clip]:
        """What an evaluation runs on. Raises InputError if there are fewer scenes than asked for."""
        names = self.scenes(count, seed)
        if count is not None and len(names) < count:
            raise InputError(f"dataset {self.name} has {len(names)} scenes, {count} were asked for")
        return [self.clip(name, frames, size) for name in names]
