"""A video, or an animated picture, to a clip: a few of its frames, decoded one at a time."""

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.scenes.animation import Animation
from quantvggt.scenes.choice import at_rate, check_choice, evenly, sharpness, slots
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.files import is_picture
from quantvggt.scenes.names import frame_names, printable
from quantvggt.scenes.picture import Picture
from quantvggt.scenes.preprocess import Fitted, check_mode, fit, to_clip
from quantvggt.scenes.stream import VideoFile

DEFAULT_FRAMES = 16
_NOTICEABLE = 1.2
_SPREAD = 0.25  # of the time between two frames if they were even: at least so much is kept


class Frame(Protocol):
    """A decoded frame."""

    def picture(self) -> Picture: ...
    def grey(self) -> NDArray[np.uint8]: ...


class Film(Protocol):
    """Frames in order of time: `stream.VideoFile`, `animation.Animation`."""

    seconds: list[float]
    usable: list[int]
    expected: int
    damaged: bool

    def find_usable(self) -> None: ...
    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, Frame]]: ...


def load_video(
    path: str | os.PathLike[str],
    frames: int | None = None,
    rate: float | None = None,
    mode: str = "crop",
    size: int = 518,
    every: int | None = None,
) -> Clip:
    """Read frames of a video, or of an animated picture, into a clip.

    frames: how many, spread evenly over time from the first to the last (16 if nothing is given; all of them, with a
    warning, if there are fewer); a frame near such a place (`choice.slots`) is taken instead if noticeably sharper.
    Or rate: how many per second, or every: each so many-th frame; both as they come, however sharp.
    mode and size: see `load_images`.
    One frame is held at full size at any time, and the same file always gives the same frames. Display rotation and the
    shape of pixels are applied, HDR becomes sRGB (`hdr`), cover art is passed over, frames that can't be decoded
    are left out with one warning. A frame of an animation without a duration counts as 0.1 seconds.

    Returns a Clip with images float32 [S, 3, H, W], named after the video and the frame's index;
    `source["frames"]` also has its time in seconds. Raises InputError for wrong arguments, a file that isn't
    a video, or one without frames.
    """
    check_mode(mode, size)
    check_choice(frames, rate, every)
    path = Path(path).expanduser()
    film = open_film(path)

    def taken() -> list[tuple[int, Fitted]]:
        windows = windows_of(film, frames, rate, every)
        return [(index, fitted(frame, mode, size)) for index, frame in sharpest(film, windows)]

    found = taken()
    if film.damaged or not found:
        film.find_usable()
        found = taken()
        if len(film.usable) < film.expected:
            warnings.warn(
                f"{len(film.usable)} of {film.expected} frames of {printable(path)} are usable; "
                "the rest is damaged and left out",
                stacklevel=3,
            )
    wanted = frames or DEFAULT_FRAMES
    if rate is None and every is None and wanted > len(film.usable):
        warnings.warn(
            f"the video has {len(film.usable)} frames, {wanted} were asked for: using all",
            stacklevel=3,
        )
    indices = [index for index, _ in found]
    return to_clip(
        [frame for _, frame in found],
        frame_names(path, indices),
        {"kind": "video", "mode": mode, "size": size},
        [{"path": str(path), "frame": index, "time": round(film.seconds[index], 6)} for index in indices],
        printable(path),
    )


def read_frames(path: Path, indices: list[int]) -> Iterator[Image.Image]:
    """The frames of a video with these ascending indices, upright; fewer if some can't be decoded.

    Raises InputError if the file isn't a video, or an index lies beyond its end.
    """
    film = open_film(path)
    if indices[-1] >= len(film.seconds):
        raise InputError(f"{printable(path)} has {len(film.seconds)} frames, frame {indices[-1]} was asked for")
    return (frame.picture().rgb for _, frame in film.frames(indices))


def open_film(path: Path) -> Film:
    if not path.is_file():
        raise InputError(f"no such video: {printable(path)}; check the path")
    return Animation(path) if is_picture(path) else VideoFile(path)


def windows_of(film: Film, frames: int | None, rate: float | None, every: int | None) -> list[list[int]]:
    """For each frame that is to be taken the indices of its candidates, the one in its very place first."""
    seconds = [film.seconds[index] for index in film.usable]
    if every is not None:
        windows = [[place] for place in range(0, len(seconds), every)]
    elif rate is not None:
        windows = [[place] for place in at_rate(seconds, rate)]
    else:
        windows = slots(seconds, evenly(seconds, frames or DEFAULT_FRAMES))
    return [[film.usable[place] for place in window] for window in windows]


def sharpest(film: Film, windows: list[list[int]]) -> Iterator[tuple[int, Frame]]:
    """The sharpest frame of each window; the first of a window stays unless another is noticeably sharper, and none is
    taken so soon after the one before that the frames would not be spread."""
    window_of = {index: number for number, window in enumerate(windows) for index in window}
    between = (film.seconds[windows[-1][0]] - film.seconds[windows[0][0]]) / max(1, len(windows) - 1)
    best: tuple[int, Frame] | None = None
    best_score, current, earliest = 0.0, -1, 0.0
    for index, frame in film.frames(sorted(window_of)):
        number = window_of[index]
        if number != current and best is not None:
            yield best
            earliest = film.seconds[best[0]] + between * _SPREAD
            best = None
        current = number
        in_place = index == windows[number][0]
        if not in_place and film.seconds[index] < earliest:
            continue
        score = sharpness(frame.grey()) if len(windows[number]) > 1 else 0.0
        score *= _NOTICEABLE if in_place else 1
        if best is None or score > best_score or (score == best_score and in_place):
            best, best_score = (index, frame), score
    if best is not None:
        yield best


def fitted(frame: Frame, mode: str, size: int) -> Fitted:
    picture = frame.picture()
    return fit(picture.rgb, mode, size, picture.alpha)
