"""What a quantizer learns from: clips out of folders, videos, tensors or the synthetic generator."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import Tensor

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.open import load_clip
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clips

SYNTHETIC = "synthetic"
CALIBRATION_SEED = HELD_OUT_SEED + 1_000_000  # scenes that neither training nor evaluation uses
CLIPS = 16
FRAMES = 8
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")

CalibrationSource = str | os.PathLike[str]


def calibration_clips(
    source: CalibrationSource | Sequence[Clip] | Sequence[Tensor],
    clips: int = CLIPS,
    frames: int = FRAMES,
    size: int = 518,
) -> list[Clip]:
    """The calibration set that `source` stands for.

    source: clips or tensors float32 [S, 3, H, W] (taken as they are); "synthetic"; a folder of images or a video
    (cut into at most `clips` clips of about `frames` frames, each spread over the whole); a folder of such folders or
    videos (one clip of at most `frames` frames from each, at most `clips` of them, evenly chosen).
    size: image side that the model was made for.
    Raises InputError if there is nothing to read, or fewer than one clip is asked for.
    """
    if clips < 1 or frames < 1:
        raise InputError(f"a calibration set needs at least one clip of one frame, got {clips} of {frames}")
    if not isinstance(source, str | os.PathLike):
        return [_as_clip(index, item) for index, item in enumerate(cast("Sequence[Clip | Tensor]", source))]
    if source == SYNTHETIC:
        return make_clips(range(CALIBRATION_SEED, CALIBRATION_SEED + clips), frames=frames, size=size)
    path = Path(source).expanduser()
    scenes = sorted(entry for entry in path.iterdir() if _is_scene(entry)) if path.is_dir() else []
    if scenes:
        step = max(1, len(scenes) / clips)
        chosen = [scenes[int(index * step)] for index in range(min(clips, len(scenes)))]
        return [load_clip(scene, frames=frames, size=size) for scene in chosen]
    return _cut(load_clip(source, frames=clips * frames, size=size), frames)


def _is_scene(entry: Path) -> bool:
    """A folder or a file that is no image (so: a video) inside a folder of scenes."""
    return not entry.name.startswith(".") and (entry.is_dir() or entry.suffix.lower() in VIDEO_SUFFIXES)


def _cut(clip: Clip, frames: int) -> list[Clip]:
    """Interleaved parts of one long clip, so that each sees the whole scene."""
    parts = max(1, len(clip.names) // frames)

    def part(first: int) -> Clip:
        source = {**clip.source, "frames": clip.source["frames"][first::parts]}
        return replace(clip, images=clip.images[first::parts], names=clip.names[first::parts], source=source)

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
