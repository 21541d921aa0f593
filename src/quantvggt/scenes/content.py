"""Does a calibration set show anything? One of black frames calibrates as quietly as a good one."""

import warnings
from collections.abc import Iterable, Iterator

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip

ALIKE = 2 / 255
"""Values that differ by no more count as the same: a covered lens and a video codec leave so much."""


def checked(clips: Iterable[Clip], name: str) -> Iterator[Clip]:
    """These clips, one by one, and after the last a word on those that show nothing.

    name: of the set, for the messages. Clips that `corruption` broke are meant as they are.
    Raises InputError if every frame of every clip is of one colour; warns if that holds for some clips, or if clips
    repeat one frame.
    """
    count, flat, still = 0, list[str](), list[str]()
    for clip in clips:
        count += 1
        if "broken" not in clip.source:
            if _flat(clip):
                flat.append(clip.names[0])
            elif _still(clip):
                still.append(clip.names[0])
        yield clip
    if flat and len(flat) == count:
        raise InputError(
            f"{name}: every frame of its {count} clips ({flat[0]}, ...) is of one colour, which calibrates nothing; "
            "give images of scenes like those you will use"
        )
    if flat:
        warnings.warn(
            f"{name}: {len(flat)} of {count} clips ({flat[0]}, ...) are of one colour and teach nothing; "
            "leave them out",
            stacklevel=2,
        )
    if still:
        warnings.warn(
            f"{name}: {len(still)} of {count} clips ({still[0]}, ...) repeat one frame and show no motion; "
            "give clips whose frames are taken from different places",
            stacklevel=2,
        )


def _flat(clip: Clip) -> bool:
    """Is each frame of one colour?"""
    return bool((clip.images.amax((2, 3)) - clip.images.amin((2, 3)) <= ALIKE).all())


def _still(clip: Clip) -> bool:
    """Are there several frames, and all the same?"""
    first, *others = clip.images
    return bool(others) and all(bool((first - other).abs().max() <= ALIKE) for other in others)
