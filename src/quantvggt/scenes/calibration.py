"""What a quantizer learns from: clips out of folders, videos, tensors or the synthetic generator."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast, overload

from torch import Tensor

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.content import checked
from quantvggt.scenes.files import SUFFIXES, VIDEO_SUFFIXES, is_clutter
from quantvggt.scenes.open import load_clip
from quantvggt.scenes.recorded import open_set
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clip

SYNTHETIC = "synthetic"
CALIBRATION_SEED = HELD_OUT_SEED + 1_000_000  # scenes that neither training nor evaluation uses
CLIPS = 16
FRAMES = 8

CalibrationSource = str | os.PathLike[str]


def calibration_clips(
    source: CalibrationSource | Sequence[Clip] | Sequence[Tensor],
    clips: int = CLIPS,
    frames: int = FRAMES,
    size: int = 518,
    mode: str = "crop",
) -> list[Clip]:
    """The calibration set that `source` stands for.

    source: clips or tensors float32 [S, 3, H, W] (taken as they are); "synthetic"; a folder of images or a video
    (cut into at most `clips` clips of about `frames` frames, each spread over the whole); a folder of such folders or
    videos, which may lie deeper (one clip of at most `frames` frames from each, at most `clips` of them, evenly
    chosen); a .json file that `quantvggt select` wrote (all of its clips, exactly as they were chosen).
    size, mode: the image side that the model was made for, and how pictures are fitted to it (`preprocess.MODES`).
    Raises InputError if there is nothing to read, fewer than one clip is asked for, or all clips are of one colour;
    warns if some are, or repeat one frame.
    """
    return list(calibration_pool(source, clips, frames, size, mode))


def calibration_pool(
    source: CalibrationSource | Sequence[Clip] | Sequence[Tensor],
    clips: int = CLIPS,
    frames: int = FRAMES,
    size: int = 518,
    mode: str = "crop",
) -> Sequence[Clip]:
    """The same clips as `calibration_clips` gives; synthetic scenes and folders of scenes open when asked for, so that
    a large pool never lies in memory, and are judged when one has gone through them."""
    if clips < 1 or frames < 1:
        raise InputError(f"a calibration set needs at least one clip of one frame, got {clips} of {frames}")
    if not isinstance(source, str | os.PathLike):
        items = enumerate(cast("Sequence[Clip | Tensor]", source))
        return list(checked((_as_clip(index, item) for index, item in items), "the calibration set"))
    name = f"the calibration set {source}"
    if source == SYNTHETIC:
        seeds = range(CALIBRATION_SEED, CALIBRATION_SEED + clips)
        return OpenedOnDemand([partial(make_clip, seed, frames=frames, size=size) for seed in seeds], name)
    path = Path(source).expanduser()
    if path.suffix.lower() == ".json" and not path.is_dir():
        return list(checked(open_set(path), name))
    scenes = _scenes_in(path) if path.is_dir() else []
    if scenes:
        step = max(1, len(scenes) / clips)
        chosen = [scenes[int(index * step)] for index in range(min(clips, len(scenes)))]
        return OpenedOnDemand(
            [partial(load_clip, scene, frames=frames, mode=mode, size=size) for scene in chosen], name
        )
    return list(checked(_cut(load_clip(source, frames=clips * frames, mode=mode, size=size), frames), name))


class OpenedOnDemand(Sequence[Clip]):
    """A sequence of clips, each of which is opened anew whenever it is asked for.

    name: of the set; whoever goes through it hears at the end what `content.checked` says.
    """

    def __init__(self, openers: Sequence[Callable[[], Clip]], name: str) -> None:
        self._openers, self._name = openers, name

    def __iter__(self) -> Iterator[Clip]:
        return checked((opener() for opener in self._openers), self._name)

    def __len__(self) -> int:
        return len(self._openers)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> "OpenedOnDemand": ...
    def __getitem__(self, index: int | slice) -> "Clip | OpenedOnDemand":
        if isinstance(index, slice):
            return OpenedOnDemand(self._openers[index], self._name)
        return self._openers[index]()


def _scenes_in(folder: Path) -> list[Path]:
    """Every folder of images and every video below `folder`, in order; [] if it holds neither folders nor videos."""
    scenes = []
    for entry in sorted(entry for entry in folder.iterdir() if _is_scene(entry)):
        inside = _scenes_in(entry) if entry.is_dir() and not _holds_images(entry) else []
        scenes += inside or [entry]
    return scenes


def _holds_images(folder: Path) -> bool:
    return any(entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".") for entry in folder.iterdir())


def _is_scene(entry: Path) -> bool:
    """A folder or a file that is no image (so: a video) inside a folder of scenes."""
    return not is_clutter(entry.name) and (entry.is_dir() or entry.suffix.lower() in VIDEO_SUFFIXES)


def _cut(clip: Clip, frames: int) -> list[Clip]:
    """Interleaved parts of one long clip, so that each sees the whole scene."""
    parts = max(1, len(clip.names) // frames)

    def part(first: int) -> Clip:
        source = {**clip.source, "frames": clip.source["frames"][first::parts]}
        shown = None if clip.shown is None else clip.shown[first::parts]
        return replace(
            clip, images=clip.images[first::parts], names=clip.names[first::parts], source=source, shown=shown
        )

    return [part(first) for first in range(parts)]


def _as_clip(index: int, item: Clip | Tensor) -> Clip:
    if isinstance(item, Clip):
        return item
    try:
        return Clip(
            item.float(), [f"frame_{frame:04d}" for frame in range(len(item))], {"kind": "tensor", "index": index}
        )
    except ValueError as error:
        raise InputError(f"calibration[{index}]: {error}") from error
