"""What datasets of files share: scenes that should be there, what of them is missing, and frames to clips."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.datasets.contract import Dataset, Picture
from quantvggt.scenes.datasets.views import View, clip_of


class OnDisk(Dataset):
    """A folder of scenes. splits: the official scenes by the name of the split, "test" first."""

    splits: ClassVar[dict[str, Sequence[str]]]

    root: Path

    def __init__(self, root: Path | None) -> None:
        if root is None:
            raise InputError(
                f"dataset {self.name} needs --root, the folder that its download makes; "
                f"it is given out at {self.source} ({self.licence})"
            )
        if not root.is_dir():
            raise self._absent(f"no folder {root}")
        super().__init__(root)
        if not any(self.scenes(split) for split in self.splits):
            raise self._absent(f"no scene of it in {root}, looked for {self.looked_for()}")

    def official(self, split: str) -> Sequence[str]:
        """The scenes that the split should have. Raises InputError on an unknown split."""
        if split not in self.splits:
            raise InputError(f"dataset {self.name} has no split {split!r}; use one of: {', '.join(self.splits)}")
        return self.splits[split]

    def scenes(self, split: str = "test") -> Sequence[str]:
        return [scene for scene in self.official(split) if not self._lacks(scene)]

    def missing(self, split: str = "test") -> Sequence[str]:
        found = []
        for scene in self.official(split):
            wanted = self.frame_count(scene)
            if parts := self._lacks(scene):
                found.append(f"{scene}: no {', '.join(map(str, parts))}")
            elif wanted is not None and (there := len(self.frames(scene))) < wanted:
                found.append(f"{scene}: {there} of {wanted} frames")
        return found

    def clip(self, scene: str, frames: Sequence[int], picture: Picture) -> Clip:
        names = self.frames(scene)
        for frame in frames:
            if not 0 <= frame < len(names):
                raise InputError(f"scene {scene} of dataset {self.name} has {len(names)} frames, no frame {frame}")
        return clip_of(self, scene, (self.view(scene, names[frame], picture) for frame in frames), picture)

    def frame_count(self, scene: str) -> int | None:
        """How many frames the scene should have, where that is known: with one missing a draw takes others."""
        return None

    def looked_for(self) -> str:
        """What should lie in the root, as an example."""
        scene = self.official(next(iter(self.splits)))[0]
        return ", ".join(str(part.relative_to(self.root)) for part in self.parts(scene))

    @abstractmethod
    def parts(self, scene: str) -> Sequence[Path]:
        """The files and folders that a scene can't do without."""

    @abstractmethod
    def view(self, scene: str, frame: str, picture: Picture) -> View:
        """One of `frames(scene)`, read."""

    def _lacks(self, scene: str) -> list[Path]:
        return [part.relative_to(self.root) for part in self.parts(scene) if not part.exists()]

    def _absent(self, what: str) -> InputError:
        return InputError(
            f"dataset {self.name}: {what}; it is given out at {self.source} ({self.licence}); "
            "docs/datasets.md has its layout"
        )
