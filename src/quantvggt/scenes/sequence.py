"""Many frames, read one at a time in their order: nothing is decoded before it is asked for, and nothing is kept."""

import os
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from quantvggt.core.errors import InputError
from quantvggt.core.limits import usable_cpus
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.images import clip_of_files
from quantvggt.scenes.names import frame_names, image_names, printable
from quantvggt.scenes.picture import quiet_pillow, read_picture, upright_size
from quantvggt.scenes.preprocess import (
    MODES,
    Fitted,
    centred,
    common_size,
    cut_share,
    fit,
    frame_mappings,
    stacked,
    warn_if_cut,
    warn_if_shapes_differ,
)
from quantvggt.scenes.video import Frame as Decoded
from quantvggt.scenes.video import fitted, load_video, open_film, sharpest, windows_of

AHEAD = 8
"""Photos that are decoded at once, at most."""
_PER_PIXEL = 8  # bytes of a photo that is decoded and resized
_PER_FILM_PIXEL = 100  # bytes of a video's picture: its decoder holds dozens of frames, of 1.5 bytes a pixel


@dataclass(frozen=True)
class Frame:
    """One frame, as large as all of its sequence; about: where it was read from, JSON-able."""

    name: str
    fitted: Fitted
    about: dict[str, Any]


class Frames(ABC):
    """A sequence of frames of one size.

    count: at most so many will come, damaged ones may be missing; size: (height, width); reading: bytes that reading
    them takes, about; source: as a clip's, without its frames; key: JSON-able, the same for the same frames; names: of
    all that will come, as far as they are known now.
    """

    count: int
    size: tuple[int, int]
    reading: int
    source: dict[str, Any]
    key: Any
    names: Sequence[str] = ()

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    @abstractmethod
    def load(self) -> Clip:
        """All of them at once."""

    def clip(self, frames: Sequence[Frame]) -> Clip:
        """Some of them."""
        return stacked(
            [frame.fitted for frame in frames],
            [frame.name for frame in frames],
            self.source,
            [frame.about for frame in frames],
        )


class PhotoFrames(Frames):
    """Image files; their sizes are read now. skip_unreadable: see `load_images`."""

    def __init__(self, paths: Sequence[Path], mode: str, size: int, skip_unreadable: bool = False) -> None:
        self._paths, self._skip = list(paths), skip_unreadable
        self._names = image_names(self._paths)
        shapes, pixels, self.names = list[tuple[int, int]](), 0, list[str]()
        with quiet_pillow():
            for path, name in zip(self._paths, self._names, strict=True):
                try:
                    original = upright_size(path)
                    width, height = MODES[mode].plan(*original, size).window
                    shapes.append((height, width))
                    pixels = max(pixels, original[0] * original[1])
                    self.names.append(name)
                except InputError:
                    if not skip_unreadable:
                        raise
        if not shapes:
            raise InputError(f"none of {len(self._paths)} images can be read; the first: {printable(self._paths[0])}")
        self._shapes, self._joint = shapes, MODES[mode].joint
        self.size = shapes[0] if self._joint is None else common_size(shapes, self._joint)
        self.reading = _PER_PIXEL * pixels * min(AHEAD, usable_cpus())
        self.count, self.source = len(shapes), {"kind": "images", "mode": mode, "size": size}
        self.key = [self.source, [_stamp(path) for path in self._paths]]

    def __iter__(self) -> Iterator[Frame]:
        """A few files are decoded ahead, at once; for `quiet_pillow` the caller cares."""
        if self._joint is not None:
            warn_if_shapes_differ(self._shapes, self._joint)
        lost, cut = list[str](), list[float]()
        places = iter(zip(self._paths, self._names, strict=True))
        ahead = min(AHEAD, usable_cpus())
        with ThreadPoolExecutor(max_workers=ahead) as pool:
            waiting = deque(pool.submit(self._read, *place) for place in islice(places, ahead))
            while waiting:
                path, name, found = waiting.popleft().result()
                if (place := next(places, None)) is not None:
                    waiting.append(pool.submit(self._read, *place))
                if isinstance(found, Fitted):
                    cut.append(cut_share(found))
                    yield Frame(name, centred(found, *self.size), {"path": str(path)})
                else:
                    lost.append(str(found))
        warn_if_cut(cut)
        if lost:
            warnings.warn(f"{len(lost)} of {len(self._paths)} images are left out: {lost[0]}", stacklevel=2)

    def load(self) -> Clip:
        return clip_of_files(self._paths, self.source["mode"], self.source["size"], self._skip)

    def _read(self, path: Path, name: str) -> tuple[Path, str, Fitted | InputError]:
        try:
            picture = read_picture(path)
        except InputError as error:
            if self._skip:
                return path, name, error
            raise
        how = (self.source["mode"], self.source["size"], picture.alpha)
        found, (height, width) = fit(picture.rgb, *how), self.size
        if self._joint is None and found.sides != (width, height):
            found = fit(picture.rgb, *how, (width, height))
        return path, name, found


class FilmFrames(Frames):
    """Frames of a video or an animated picture, chosen as `load_video` does; only the first is decoded now."""

    def __init__(
        self,
        path: Path,
        frames: int | None = None,
        rate: float | None = None,
        mode: str = "crop",
        size: int = 518,
        every: int | None = None,
    ) -> None:
        self._arguments = (frames, rate, mode, size, every)
        self._path = path
        self._film = open_film(path)
        self._windows = windows_of(self._film, frames, rate, every)
        if not self._first():
            self._film.find_usable()
            self._windows = windows_of(self._film, frames, rate, every)
        first = fitted(self._first()[0], mode, size)
        height, width = first.pixels.shape[1:]
        self.reading = _PER_FILM_PIXEL * first.original_size[0] * first.original_size[1]
        self.size, self.count = (height, width), len(self._windows)
        self.source = {"kind": "video", "mode": mode, "size": size}
        self.key = [self.source, _stamp(path), frames, rate, every]

    def _first(self) -> list[Decoded]:
        """The frame that comes first, if it can be decoded."""
        return [frame for _, frame in sharpest(self._film, self._windows[:1])]

    def __iter__(self) -> Iterator[Frame]:
        came = 0
        for index, frame in sharpest(self._film, self._windows):
            came += 1
            about = {"path": str(self._path), "frame": index, "time": round(self._film.seconds[index], 6)}
            (name,) = frame_names(self._path, [index])
            shown = fitted(frame, self.source["mode"], self.source["size"])
            yield Frame(name, centred(shown, *self.size), about)
        if came < self.count:
            warnings.warn(
                f"{self.count - came} of {self.count} frames of {printable(self._path)} are damaged and left out",
                stacklevel=2,
            )

    def load(self) -> Clip:
        return load_video(self._path, *self._arguments)


class ClipFrames(Frames):
    """A clip that is in memory already."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self.reading, self.names = 0, clip.names
        self.count, self.size = len(clip.names), (clip.images.shape[2], clip.images.shape[3])
        self.source = {key: value for key, value in clip.source.items() if key != "frames"}
        self.key = [clip.source, clip.names, float(clip.images.sum(dtype=torch.float64))]

    def __iter__(self) -> Iterator[Frame]:
        height, width = self.size
        whole = {"width": width, "height": height, "scale": (1.0, 1.0), "offset": (0, 0)}
        mappings = frame_mappings(self._clip.source, self.count) or [whole] * self.count
        for index, (name, about) in enumerate(zip(self._clip.names, mappings, strict=True)):
            shown = None if self._clip.shown is None else self._clip.shown[index]
            scale, offset = (about["scale"][0], about["scale"][1]), (about["offset"][0], about["offset"][1])
            picture = Fitted(self._clip.images[index], (about["width"], about["height"]), scale, offset, shown)
            yield Frame(name, picture, {key: about[key] for key in ("path", "frame", "time") if key in about})

    def load(self) -> Clip:
        return self._clip

    def clip(self, frames: Sequence[Frame]) -> Clip:
        if frame_mappings(self._clip.source, self.count):
            return super().clip(frames)
        shown = [frame.fitted.shown for frame in frames]
        return Clip(
            torch.stack([frame.fitted.pixels for frame in frames]),
            [frame.name for frame in frames],
            self.source,
            shown=None if shown[0] is None else torch.stack([mask for mask in shown if mask is not None]),
        )


def _stamp(path: Path) -> list[Any]:
    """What changes when a file does."""
    try:
        found = os.stat(path)
    except OSError:
        return [str(path)]
    return [str(path), found.st_size, found.st_mtime_ns]
