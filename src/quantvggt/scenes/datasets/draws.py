"""Which scenes and which of their frames an evaluation takes: the published ways to draw them, as values."""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np

from quantvggt.core.errors import InputError
from quantvggt.scenes.datasets.contract import Dataset


class Drawn(NamedTuple):
    """A scene and the places of its frames in `Dataset.frames(scene)`, in the order that a model sees them."""

    scene: str
    frames: tuple[int, ...]


class Draw(ABC):
    """A way to draw; its fields are its settings."""

    def of(
        self, dataset: Dataset, count: int | None = None, seed: int | None = None, split: str = "test"
    ) -> list[Drawn]:
        """What an evaluation runs on. count: of scenes, None: as many as the dataset usually has; seed: None: the
        published one. Scenes with fewer frames than the draw needs are left out.

        Raises InputError if there are fewer scenes than asked for, or none.
        """
        wanted = dataset.usual if count is None else count
        if wanted is not None and wanted < 1:
            raise InputError(f"{wanted} scenes were asked for; an evaluation needs 1 or more")
        drawn = self._draw(dataset, dataset.scenes(split), wanted, seed)
        if not drawn or len(drawn) < (wanted or 1):
            raise InputError(
                f"dataset {dataset.name} has {len(drawn)} scenes with enough frames, {wanted or 'some'} were asked for"
            )
        return drawn

    @abstractmethod
    def _draw(self, dataset: Dataset, scenes: Sequence[str], count: int | None, seed: int | None) -> list[Drawn]:
        """`count` of the scenes, or all; fewer if there are fewer."""


class Fixed(Draw):
    """No chance: every scene has its frames. `seed` is how many scenes are passed over."""

    @abstractmethod
    def _frames(self, available: int) -> tuple[int, ...]:
        """Of so many frames; none if they are too few."""

    def _draw(self, dataset: Dataset, scenes: Sequence[str], count: int | None, seed: int | None) -> list[Drawn]:
        drawn: list[Drawn] = []
        for scene in scenes[seed or 0 :]:
            if count is not None and len(drawn) == count:
                break
            if frames := self._frames(len(dataset.frames(scene))):
                drawn.append(Drawn(scene, frames))
        return drawn


@dataclass(frozen=True)
class First(Fixed):
    """The first `count` frames of scenes that have so many."""

    count: int

    def __post_init__(self) -> None:
        _require_positive(count=self.count)

    def _frames(self, available: int) -> tuple[int, ...]:
        return tuple(range(self.count)) if available >= self.count else ()


@dataclass(frozen=True)
class Every(Fixed):
    """Every `step`-th frame from `start` on, `limit` of them at most.

    halving: the step is at most half the number of frames, so that two or three are left of a short scene (CUT3R,
    QuantVGGT); backwards: the last comes first (CUT3R, Spann3R on DTU), so it is the reference view.
    """

    step: int
    limit: int | None = None
    start: int = 0
    halving: bool = False
    backwards: bool = False

    def __post_init__(self) -> None:
        _require_positive(step=self.step, limit=1 if self.limit is None else self.limit, start=self.start + 1)

    def _frames(self, available: int) -> tuple[int, ...]:
        step = min(self.step, max(1, available // 2)) if self.halving else self.step
        frames = tuple(range(self.start, available, step))[: self.limit]
        return frames[::-1] if self.backwards else frames


@dataclass(frozen=True)
class RandomFrames(Draw):
    """`frames` at random without repetition, in the order drawn, from each scene of at least `min_frames`.

    NumPy's legacy generator is seeded once; scenes left out take no numbers from it. A `count` below that of the
    scenes takes them evenly spread, each with the frames that it has in the full evaluation.
    order: of the scenes of one category, sorted by name (VGGT, QuantVGGT) or as listed (Pi3).
    quick: of each category 10 scenes drawn by Python's generator where it has so many ("sample", VGGT), or the first 20
    ("first", QuantVGGT), before any is left out.
    """

    frames: int
    seed: int = 0
    min_frames: int = 0
    order: Literal["sorted", "listed"] = "sorted"
    quick: Literal["sample", "first"] | None = None

    def __post_init__(self) -> None:
        _require_positive(frames=self.frames)

    def _draw(self, dataset: Dataset, scenes: Sequence[str], count: int | None, seed: int | None) -> list[Drawn]:
        seed = self.seed if seed is None else seed
        numbers, names = np.random.RandomState(seed), random.Random(seed)
        drawn = []
        for _, group in groupby(scenes, dataset.category):
            for scene in self._some(list(group), names):
                available = len(dataset.frames(scene))
                if available >= max(self.frames, self.min_frames):
                    places = numbers.choice(available, self.frames, replace=False)
                    drawn.append(Drawn(scene, tuple(places.tolist())))
        if count is None or count >= len(drawn):
            return drawn
        return [drawn[place * len(drawn) // count] for place in range(count)]

    def _some(self, scenes: list[str], names: random.Random) -> list[str]:
        """The scenes of one category, in order."""
        if self.order == "sorted":
            scenes = sorted(scenes)
        if self.quick == "first":
            return scenes[:20]
        if self.quick == "sample" and len(scenes) >= 10:
            return sorted(names.sample(scenes, 10))
        return scenes


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name} of a draw must be positive, not {value}")
