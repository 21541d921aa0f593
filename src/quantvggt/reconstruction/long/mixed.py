"""Chunks of frames from different parts of a sequence: what holds its ends together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components

from quantvggt.reconstruction.long.chunk import Chunk
from quantvggt.reconstruction.long.loops import sees
from quantvggt.scenes.clip import Clip


@dataclass(frozen=True)
class Mix:
    """frames: places of the sequence by the chunk that they are taken from."""

    frames: dict[int, list[int]]

    @property
    def places(self) -> list[int]:
        """All of them, ascending."""
        return sorted(place for places in self.frames.values() for place in places)


def overview(owned: Mapping[int, Sequence[int]], size: int) -> Mix:
    """`size` frames spread over all of the sequence; owned: the places of each chunk, each place once."""
    owner = {place: chunk for chunk, places in owned.items() for place in places}
    places = sorted(owner)
    chosen = np.unique(np.linspace(0, len(places) - 1, min(size, len(places))).round().astype(int))
    frames: dict[int, list[int]] = {}
    for index in chosen:
        frames.setdefault(owner[places[index]], []).append(places[index])
    return Mix(frames)


def loop(first: tuple[int, Sequence[int], int], second: tuple[int, Sequence[int], int], size: int) -> Mix:
    """Of two chunks (number, places, the place that looks like the other's) the frames around these places."""
    frames: dict[int, list[int]] = {}
    for number, places, centre in (first, second):
        others = set(frames[first[0]]) if frames else set()
        free = [place for place in places if place not in others]
        frames[number] = sorted(sorted(free, key=lambda place: abs(place - centre))[: size // 2])
    return Mix(frames)


def clip_of(mix: Mix, chunks: Mapping[int, Chunk]) -> Clip:
    """The frames of a mix as one clip, in their order, from the chunks that have them."""
    owner = {place: chunks[number] for number, places in mix.frames.items() for place in places}
    rows = [(owner[place], owner[place].row(place)) for place in mix.places]
    images = np.stack([chunk.images[row] for chunk, row in rows])
    shown = np.stack([chunk.points_conf[row] > 0 for chunk, row in rows])
    source = dict(rows[0][0].provenance["source"])
    if all("scale" in chunk.about[row] for chunk, row in rows):
        source["frames"] = [chunk.about[row] for chunk, row in rows]
    return Clip(
        images=torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255),
        names=[chunk.names[row] for chunk, row in rows],
        source=source,
        shown=torch.from_numpy(shown),
    )


def agreeing(mix: Mix, result: Chunk) -> list[int]:
    """The chunks of a mix whose frames the model sees in one place with those of other chunks: those of the largest
    group that hangs together, none if no two do."""
    numbers = sorted(mix.frames)
    rows = {number: [result.row(place) for place in mix.frames[number] if place in result.frames] for number in numbers}
    linked = np.zeros((len(numbers), len(numbers)), bool)
    for i, first in enumerate(numbers):
        for j, second in enumerate(numbers):
            if i < j:
                pairs = ((a, b) for a in rows[first] for b in rows[second])
                linked[i, j] = any(sees(result, a, b) and sees(result, b, a) for a, b in pairs)
    _, labels = connected_components(linked, directed=False)
    largest = np.bincount(labels).argmax()
    found = [number for number, label in zip(numbers, labels, strict=True) if label == largest]
    return found if len(found) > 1 else []
