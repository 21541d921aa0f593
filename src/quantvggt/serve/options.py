"""What a job may be asked for, from words."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.export import FORMATS, check_formats
from quantvggt.reconstruction.points import MIN_CONFIDENCE, check_selection
from quantvggt.reconstruction.predict import NEEDED_HEADS
from quantvggt.scenes.preprocess import MODES
from quantvggt.scenes.video import DEFAULT_FRAMES
from quantvggt.serve.limits import Limits
from quantvggt.serve.uploads import TooLarge

PAGE, PAGE_FILE = "page", "scene.html"
FILES = {**{name: kind.file for name, kind in FORMATS.items()}, PAGE: PAGE_FILE}
"""Format -> its file or folder in a result."""


@dataclass(frozen=True)
class Options:
    """The same as the options of `quantvggt reconstruct`; formats: keys of FILES; mode: None for the family's own.

    Raises InputError for a value that none of them has.
    """

    formats: tuple[str, ...] = tuple(FILES)
    frames: int | None = None
    points: str = "depth"
    mode: str | None = None
    min_confidence: float = MIN_CONFIDENCE
    max_points: int | None = None

    def __post_init__(self) -> None:
        asked = [name for name in self.formats if name != PAGE]
        if asked or not self.formats:
            check_formats(asked)
        for name, known in (("points", tuple(NEEDED_HEADS)), ("mode", (*MODES, None))):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; choose one of: {', '.join(filter(None, known))}")
        if self.frames is not None and self.frames < 1:
            raise InputError(f"frames is {self.frames}; ask for at least 1")
        check_selection(self.min_confidence, self.max_points)

    def fitted(self, files: int, video: bool, limits: Limits) -> int | None:
        """How many frames to read of so many files, None for all. Raises TooLarge for more than `limits.frames`."""
        single = video or files == 1  # which may be an animated picture
        default = min(DEFAULT_FRAMES, limits.frames) if single else None
        wanted = self.frames or default
        if (wanted or files) > limits.frames:
            raise TooLarge(f"{wanted or files} frames, {limits.frames} are allowed; ask for frames={limits.frames}")
        return wanted


def read_options(words: Mapping[str, str]) -> Options:
    """{"formats": "ply,glb", "frames": "8"} -> Options. Raises InputError for an unknown name or a wrong value."""
    known = {field.name for field in fields(Options)}
    values: dict[str, Any] = {}
    for name, word in words.items():
        if name not in known:
            raise InputError(f"there is no option {name!r}; there are: {', '.join(sorted(known))}")
        values[name] = _READ[name](name, word) if name in _READ else word
    return Options(**values)


def _formats(_: str, word: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in word.split(",") if part.strip()))


def _whole(name: str, word: str) -> int:
    if not word.isascii() or not word.isdecimal() or len(word) > 9:
        raise InputError(f"{name} is {word[:20]!r}; write a whole number")
    return int(word)


def _number(name: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise InputError(f"{name} is {word[:20]!r}; write a number") from None


_READ = {"formats": _formats, "frames": _whole, "max_points": _whole, "min_confidence": _number}
