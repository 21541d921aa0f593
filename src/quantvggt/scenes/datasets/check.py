"""Is a dataset all there, and can it be read?"""

from typing import NamedTuple

from tqdm import tqdm

from quantvggt.core.errors import InputError
from quantvggt.scenes.datasets.contract import Dataset, Picture

SMALL = Picture(28)


class Checked(NamedTuple):
    """scenes: how many have frames; missing: what the split has and the root lacks, see `Dataset.missing`;
    unreadable: why a scene's first frame can't be read, for each of which that is so."""

    scenes: int
    missing: list[str]
    unreadable: list[str]


def check(dataset: Dataset, split: str = "test", progress: bool = True) -> Checked:
    """Look for all of a split, and read the first frame of each scene with its truth."""
    found, unreadable = 0, []
    scenes = dataset.scenes(split)[: dataset.usual]
    for scene in tqdm(scenes, desc=dataset.name, unit="scene", disable=not progress):
        try:
            if dataset.frames(scene):
                found += 1
                dataset.clip(scene, [0], SMALL)
        except InputError as error:
            unreadable.append(f"{scene}: {error}")
    return Checked(found, list(dataset.missing(split)), unreadable)
