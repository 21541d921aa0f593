"""Names of files as people, JSON and COLMAP can have them: a path may hold any bytes but NUL, a name is printable."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

_LONGEST = 240  # bytes in UTF-8: file systems end at 255, and exports add a suffix of their own


def printable(text: object) -> str:
    """One line of text that any terminal and file takes: bytes that aren't UTF-8, controls and line ends become "_"."""
    return "".join(letter if letter.isprintable() else "_" for letter in str(text))


def natural_order(path: Path) -> list[tuple[list[tuple[int, int, str]], str]]:
    """A key by which img2 comes before img10, and a folder's files before those of the next folder."""
    return [([_in_order(piece) for piece in re.split(r"(\d+)", part.lower())], part) for part in path.parts]


def _in_order(piece: str) -> tuple[int, int, str]:
    return (0, int(piece), "") if piece.isdecimal() else (1, 0, piece)


def image_names(paths: Sequence[Path]) -> list[str]:
    """File names, each once; with as much of the folder in front as it takes to tell all frames apart."""
    names = [fitting(path.name) for path in paths]
    if len(set(names)) == len(names):
        return names
    absolute = [os.path.abspath(path) for path in paths]
    base = os.path.commonpath([os.path.dirname(path) for path in absolute])
    parts = [Path(os.path.relpath(path, base)).parts for path in absolute]
    names = ["/".join(fitting(part) for part in each) for each in parts]
    if len(set(names)) == len(names):
        return names
    return [f"{index:04d}_{name.replace('/', '_')[-_LONGEST:]}" for index, name in enumerate(names)]


def frame_names(video: Path, indices: Sequence[int]) -> list[str]:
    """Names of frames of a video: its own, and the frame's index."""
    stem = fitting(video.stem)
    return [f"{stem}_{index:06d}" for index in indices]


def fitting(name: str) -> str:
    """The name, printable and with its middle left out where it is too long; the suffix stays."""
    name = printable(name)
    while (excess := len(name.encode()) - _LONGEST) > 0:
        middle = len(name) // 2
        name = name[: middle - (excess + 3) // 4] + name[middle:]
    return name


def plain_path(name: str) -> str:
    """A relative path without what COLMAP's text files or other systems can't take, blanks above all."""
    name = re.sub(r'[\s\x00-\x1f\ud800-\udfff<>:"|?*]+', "_", name.replace("\\", "/"))
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(parts) or "frame"
