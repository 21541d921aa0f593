"""One entry for whatever the user has: photos or a video."""

import os
from pathlib import Path

import numpy as np

from quantvggt.core.errors import InputError
from quantvggt.scenes.choice import check_choice
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.files import ImageSource, is_picture, list_images
from quantvggt.scenes.images import clip_of_files
from quantvggt.scenes.picture import has_more_frames, open_image, quiet_pillow
from quantvggt.scenes.preprocess import check_mode
from quantvggt.scenes.video import load_video


def load_clip(
    source: ImageSource,
    frames: int | None = None,
    rate: float | None = None,
    mode: str = "crop",
    size: int = 518,
    every: int | None = None,
    skip_unreadable: bool = False,
) -> Clip:
    """Read a folder, glob, list of images, single image or video into a clip.

    A file that is no picture, by its content or else its suffix, is read as a video; so is an animated picture if it is
    the only one. frames: use that many, evenly spaced (None: all images, or 16 frames of a video); every: each so
    many-th; rate: frames per second, for a video only. The rest is as in `load_images` and `load_video`.
    Raises InputError as they do, and for a rate given with images.
    """
    check_choice(frames, rate, every)
    check_mode(mode, size)
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        if path.is_file() and not is_picture(path):
            return load_video(path, frames, rate, mode, size, every)
    paths = list_images(source, skip_unreadable)
    if len(paths) == 1 and _is_animated(paths[0]):
        return load_video(paths[0], frames, rate, mode, size, every)
    if rate is not None:
        raise InputError("a rate needs a video; choose images by number of frames instead")
    if frames is not None and frames < len(paths):
        chosen = np.linspace(0, len(paths) - 1, frames).round().astype(int)
        paths = [paths[index] for index in chosen]
    return clip_of_files(paths[::every], mode, size, skip_unreadable)


def _is_animated(path: Path) -> bool:
    with quiet_pillow(), open_image(path) as (image, _):
        return has_more_frames(image)
