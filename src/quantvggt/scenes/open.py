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
from quantvggt.scenes.sequence import FilmFrames, Frames, PhotoFrames
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
    chosen = choose(source, frames, rate, mode, size, every, skip_unreadable)
    if isinstance(chosen, Path):
        return load_video(chosen, frames, rate, mode, size, every)
    return clip_of_files(chosen, mode, size, skip_unreadable)


def open_frames(
    source: ImageSource,
    frames: int | None = None,
    rate: float | None = None,
    mode: str = "crop",
    size: int = 518,
    every: int | None = None,
    skip_unreadable: bool = False,
) -> Frames:
    """The frames that `load_clip` gives, to be read one at a time; its arguments, errors and warnings."""
    chosen = choose(source, frames, rate, mode, size, every, skip_unreadable)
    if isinstance(chosen, Path):
        return FilmFrames(chosen, frames, rate, mode, size, every)
    return PhotoFrames(chosen, mode, size, skip_unreadable)


def choose(
    source: ImageSource,
    frames: int | None,
    rate: float | None,
    mode: str,
    size: int,
    every: int | None,
    skip_unreadable: bool,
) -> Path | list[Path]:
    """The video, or the image files, that are meant."""
    check_choice(frames, rate, every)
    check_mode(mode, size)
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        if path.is_file() and not is_picture(path):
            return path
    paths = list_images(source, skip_unreadable)
    if len(paths) == 1 and _is_animated(paths[0]):
        return paths[0]
    if rate is not None:
        raise InputError("a rate needs a video; choose images by number of frames instead")
    if frames is not None and frames < len(paths):
        chosen = np.linspace(0, len(paths) - 1, frames).round().astype(int)
        paths = [paths[index] for index in chosen]
    return paths[::every]


def _is_animated(path: Path) -> bool:
    with quiet_pillow(), open_image(path) as (image, _):
        return has_more_frames(image)
