"""One entry for whatever the user has: photos or a video."""

import os
from pathlib import Path

import numpy as np

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.images import SUFFIXES, ImageSource, clip_of_files, list_images
from quantvggt.scenes.preprocess import check_mode
from quantvggt.scenes.video import load_video


def load_clip(
    source: ImageSource,
    frames: int | None = None,
    rate: float | None = None,
    mode: str = "crop",
    size: int = 518,
) -> Clip:
    """Read a folder, glob, list of images, single image or video into a clip.

    A file without an image's suffix is read as a video. frames: use that many, evenly spaced (None: all
    images, or 16 frames of a video); rate: frames per second, for a video only. The rest is as in
    `load_images` and `load_video`. Raises InputError as they do, and for a rate given with images.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        if path.is_file() and path.suffix.lower() not in SUFFIXES:
            return load_video(path, frames=frames, rate=rate, mode=mode, size=size)
    if rate is not None:
        raise InputError("a rate needs a video; choose images by number of frames instead")
    if frames is not None and frames < 1:
        raise InputError(f"frames is {frames}; ask for at least 1")
    check_mode(mode, size)
    paths = list_images(source)
    if frames is not None and frames < len(paths):
        chosen = np.linspace(0, len(paths) - 1, frames).round().astype(int)
        paths = [paths[index] for index in chosen]
    return clip_of_files(paths, mode, size)
