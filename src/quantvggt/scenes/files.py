"""Which image files a folder, a glob or a list stands for. Nothing is decoded here."""

import glob
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from quantvggt.core.errors import InputError
from quantvggt.scenes.names import natural_order, printable

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".heic", ".heif", ".hif", ".avif", ".jp2", ".ppm", ".pgm", ".pnm", ".tga"),
)
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")
ImageSource = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_CLUTTER = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
_MATROSKA = b"\x1aE\xdf\xa3"  # and WebM
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")


def list_images(source: ImageSource, skip_unreadable: bool = False) -> list[Path]:
    """The image files a folder, glob, single path or list stands for, in reading order.

    Folders and globs: files with an image's suffix, or with none but an image's content; hidden files and what
    systems leave behind (`__MACOSX`, `Thumbs.db`) are passed over. A folder without images stands for all that lie
    deeper, with a warning that says so. skip_unreadable: paths of a list that don't exist are left to the reader.
    Raises InputError if a path doesn't exist, or if no image is left.
    """
    if not isinstance(source, str | os.PathLike):
        paths = [Path(item).expanduser() for item in source]
        if not paths:
            raise InputError("the list of images is empty; give at least one image")
        for path in paths:
            if not skip_unreadable:
                check_file(path)
        return paths
    if not os.fspath(source):
        raise InputError("the name of the images is empty; give a folder, a glob, an image or a video")
    path = Path(source).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if glob.has_magic(str(path)) and not path.exists():
        found = [item for item in map(Path, glob.glob(str(path), recursive=True)) if _counts(item)]
        if not found:
            raise InputError(f"no images in pattern {printable(path)}; looked for {' '.join(SUFFIXES)}")
        return sorted(found, key=natural_order)
    check_file(path)
    return [path]


def check_file(path: Path) -> None:
    """Raise InputError unless there is a file at that path."""
    if path.is_dir():
        raise InputError(f"{printable(path)} is a folder inside a list of images; give the folder alone, or its files")
    if path.is_symlink() and not path.exists():
        raise InputError(f"{printable(path)} is a link to nothing; restore the file or leave it out")
    if not path.exists():
        raise InputError(f"no such image or folder: {printable(path)}; check the path")
    if not path.is_file():
        raise InputError(f"{printable(path)} is no regular file; give an image or a folder")


def is_clutter(name: str) -> bool:
    """Whether a folder or file of that name is hidden, or left behind by a system rather than by a person."""
    return name.startswith(".") or name in _CLUTTER


def content_of(path: Path) -> str:
    """What a file's first bytes say that it is: "avif", "heif", "image" (of another format), "video", or "" if we can't
    tell."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError:
        return ""
    if start[4:8] == b"ftyp":
        brands = [start[place : place + 4] for place in (8, *range(16, min(len(start), start[3]), 4))]
        if any(brand in _AVIF_BRANDS for brand in brands):
            return "avif"
        return "heif" if any(brand in _HEIF_BRANDS for brand in brands) else "video"
    riff = start[8:12] if start[:4] == b"RIFF" else b""
    if riff == b"AVI " or start.startswith(_MATROSKA):
        return "video"
    return "image" if riff == b"WEBP" or start.startswith(_BEGINNINGS) else ""


def is_picture(path: Path) -> bool:
    """Whether a file is to be read as a picture rather than a video: by its content, else by its suffix."""
    kind = content_of(path)
    return kind != "video" and (bool(kind) or path.suffix.lower() in SUFFIXES)


def _in_folder(folder: Path) -> list[Path]:
    inside = [item for item in _entries(folder) if not is_clutter(item.name)]
    images = [item for item in inside if _counts(item)]
    folders = [item for item in inside if item.is_dir()]
    if images:
        left_out = [item.name for item in folders if any(_counts(entry) for entry in _entries(item))]
        if left_out:
            some = ", ".join(printable(name) for name in sorted(left_out)[:3]) + (", ..." if left_out[3:] else "")
            warnings.warn(f"images in folders below {printable(folder)} are left out: {some}", stacklevel=4)
        return sorted(images, key=natural_order)
    images = [file for item in folders for file in _below(item, {os.path.realpath(folder)})]
    if not images:
        videos = [printable(item.name) for item in inside if item.suffix.lower() in VIDEO_SUFFIXES]
        remedy = f"give the video {videos[0]} itself" if videos else f"looked for {' '.join(SUFFIXES)}"
        raise InputError(f"no images in folder {printable(folder)}; {remedy}")
    warnings.warn(
        f"{printable(folder)} holds images only in folders below it: reading all {len(images)} from "
        f"{len({image.parent for image in images})} folders",
        stacklevel=4,
    )
    return sorted(images, key=natural_order)


def _below(folder: Path, seen: set[str]) -> Iterator[Path]:
    """All images in a folder and deeper; links are followed, but never in a circle."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for item in _entries(folder):
        if is_clutter(item.name):
            continue
        if item.is_dir():
            yield from _below(item, seen)
        elif _counts(item):
            yield item


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read folder {printable(folder)}: {error.strerror}; check its permissions") from error


def _counts(item: Path) -> bool:
    """Whether a file found in a folder is taken for an image; a link to nothing is, for the reader to complain."""
    suffix = item.suffix.lower()
    if suffix in SUFFIXES:
        return item.is_file() or (item.is_symlink() and not item.exists())
    return not suffix and item.is_file() and is_picture(item)
