"""An animated picture as a film: GIF, APNG, animated WebP and AVIF, TIFF pages, MPO, all alike."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quantvggt.scenes.picture import Picture, open_image, quiet_pillow, upright

_UNTIMED = 0.1  # seconds of a frame that says nothing, or nothing sensible, about its duration: as browsers do
_GREY_SIDE = 512


class Animation:
    """The frames of an animated picture that are as large as its first, decoded one at a time.

    seconds: when each frame is shown; usable: the indices that can be read; expected: how many the file announces.
    Raises InputError if the file isn't a readable picture.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: list[float] = []
        self._places: list[int] = []
        self.damaged = False
        now = 0.0
        with quiet_pillow(), open_image(path) as (image, _):
            size, self.expected = image.size, getattr(image, "n_frames", 1)
            for place in range(self.expected):
                try:
                    image.seek(place)
                    if image.size == size:  # others aren't decoded: they may be of any size
                        image.load()
                except Exception:  # decoders raise whatever they stumble over; what came before is good
                    self.damaged = True
                    break
                if image.size == size:
                    self._places.append(place)
                    self.seconds.append(now)
                duration = image.info.get("duration") or 0
                now += duration / 1000 if duration > 0 else _UNTIMED
        self.usable = list(range(len(self.seconds)))

    def find_usable(self) -> None:
        """Nothing is left to find: every frame has been decoded once."""

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, "AnimationFrame"]]:
        """The frames with these ascending indices."""
        with quiet_pillow(), open_image(self.path) as (image, orientation):
            for index in indices:
                image.seek(self._places[index])
                image.load()
                yield index, AnimationFrame(upright(image, orientation))


class AnimationFrame:
    """One frame."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture

    def picture(self) -> Picture:
        return self._picture

    def grey(self) -> NDArray[np.uint8]:
        """A small version [h, w] to judge its sharpness by."""
        small = self._picture.rgb.convert("L")
        small.thumbnail((_GREY_SIDE, _GREY_SIDE), Image.Resampling.BOX)
        return np.asarray(small)
