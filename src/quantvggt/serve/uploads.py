"""Files by strangers: their names, what they are, how large they claim to be. Nothing is decoded here.

What is refused is refused with the reason, before a model sees it.
"""

import errno
import re
import shutil
import stat
import struct
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from quantvggt.core.errors import InputError
from quantvggt.scenes.files import content_of, is_clutter
from quantvggt.scenes.names import fitting, natural_order, printable
from quantvggt.scenes.picture import picture_size, quiet_pillow
from quantvggt.scenes.stream import video_size
from quantvggt.serve.limits import MEBI, Limits

ZIP_START = b"PK\x03\x04"
_MOST_PACKED = 100  # times smaller than its content: pictures shrink little, bombs a thousandfold
_LONGEST_SHAPE = 32  # times as long as wide: the width is what is scaled, so a thin picture would become very long
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # devices of Windows, whatever follows
_UNWELCOME = str.maketrans(dict.fromkeys('<>:"|?*', "_"))  # in names on Windows, where a result may be unpacked


class TooLarge(InputError):
    """More than a limit allows."""


class WrongType(InputError):
    """Neither a picture nor a video that can be read here."""


class NoRoom(InputError):
    """The disk has none for it; nobody's mistake."""


def safe_name(name: str) -> str:
    """What to call a file here for which a stranger gave this name: its last part, in letters that any system takes.

    Raises InputError for a name that leads elsewhere: absolute, with "..", with a drive or a NUL; or for none.
    """
    parts = unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
    if "\0" in name or ".." in parts or (parts[0] == "" and len(parts) > 1) or re.match(r"[A-Za-z]:", parts[0]):
        raise InputError(f"the file name {_quoted(name)} leads out of the folder it is for; send the name alone")
    base = fitting(parts[-1].translate(_UNWELCOME)).strip(". ")
    if not base:
        raise InputError(f"{_quoted(name)} is no name of a file; give each file one")
    return f"_{base}" if _RESERVED.match(base) else base


def distinct(names: Sequence[str]) -> list[str]:
    """The same names, with their place in front where two are equal on some system."""
    if len({name.casefold() for name in names}) == len(names):
        return list(names)
    return [f"{index:04d}_{name}" for index, name in enumerate(names)]


def is_zip(path: Path) -> bool:
    """Whether a file starts as a zip does."""
    with open(path, "rb") as file:
        return file.read(len(ZIP_START)) == ZIP_START


def check_room(folder: Path, count: int, limits: Limits) -> None:
    """Raises NoRoom unless so many bytes can be written into a folder with `spare_bytes` left."""
    if shutil.disk_usage(folder).free - count < limits.spare_bytes:
        raise _no_room()


def _no_room() -> NoRoom:
    return NoRoom("no room on the disk for this now; try again when other jobs are finished")


def unpack(archive: Path, folder: Path, limits: Limits) -> list[Path]:
    """The files in a zip, written flat into a folder, in natural order of their paths.

    Folders, hidden files and what systems leave behind are passed over. Raises InputError for a damaged zip, and for an
    entry that is encrypted, a link, packed in a rare way, or whose name leads elsewhere; TooLarge for too many of them,
    too many bytes, or one that is packed as tightly as only bombs are; NoRoom.
    """
    try:
        with ZipFile(archive) as packed:
            chosen = _chosen(packed, limits)
            check_room(folder, sum(entry.file_size for entry in chosen), limits)
            names = distinct([safe_name(entry.filename) for entry in chosen])
            for entry, name in zip(chosen, names, strict=True):
                # However much is packed there, zipfile gives no more than the size that the entry tells.
                with packed.open(entry) as source, open(folder / name, "xb") as target:
                    shutil.copyfileobj(source, target, MEBI)
    except InputError:
        raise
    except MemoryError as error:
        raise TooLarge("the zip holds more entries than there is memory for") from error
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room() from error
        raise WrongType(f"the zip is damaged ({printable(error)}); pack it again, or send the files alone") from error
    return [folder / name for name in names]


_DAMAGE = (BadZipFile, EOFError, NotImplementedError, OverflowError, ValueError, struct.error, zlib.error)


def _chosen(packed: ZipFile, limits: Limits) -> list[ZipInfo]:
    """The entries that are to be unpacked, in natural order."""
    chosen = []
    for entry in packed.infolist():
        safe_name(entry.filename.rstrip("/"))
        if entry.is_dir() or any(is_clutter(part) for part in PurePosixPath(entry.filename).parts):
            continue
        name = _quoted(entry.filename)
        if entry.flag_bits & 1:
            raise InputError(f"{name} in the zip is encrypted; pack it without a password")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise InputError(f"{name} in the zip is a link or a device; pack the file itself")
        if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise InputError(f"{name} in the zip is packed in a rare way; use deflate, or send the files alone")
        if entry.file_size > max(MEBI, _MOST_PACKED * entry.compress_size):
            raise TooLarge(f"{name} in the zip is packed more than {_MOST_PACKED} times; send the file alone")
        chosen.append(entry)
    if not chosen:
        raise InputError("the zip has no files; pack pictures or a video")
    check_count(len(chosen), limits)
    total = sum(entry.file_size for entry in chosen)
    if total > limits.request_bytes:
        raise TooLarge(f"the zip unpacks to {total:,} bytes, {limits.request_bytes:,} are allowed; {_SEND_LESS}")
    return sorted(chosen, key=lambda entry: natural_order(Path(entry.filename)))


def check_count(files: int, limits: Limits) -> None:
    """Raises TooLarge for more files than one job may have."""
    if files > limits.files:
        raise TooLarge(f"{files} files, {limits.files} are allowed; {_SEND_LESS}")


def check(files: Sequence[Path], limits: Limits) -> bool:
    """Look at what was sent: one video (True), or pictures (False), by content and headers.

    Raises WrongType for a file that is neither, or whose header can't be read; TooLarge for too many files or pixels;
    InputError for no files, for a video beside others, and for a picture that is too long and thin.
    """
    if not files:
        raise InputError("no files; send pictures, a video, or a zip of them")
    check_count(len(files), limits)
    pixels = 0
    for path in files:
        video = content_of(path) == "video"
        if video and len(files) > 1:
            raise InputError(f"{path.name} is a video and doesn't come alone; send it by itself, or pictures")
        width, height = _size(path, video)
        if not width or not height or max(width, height) > _LONGEST_SHAPE * min(width, height):
            raise InputError(f"{path.name} is {width}x{height}, which is too long and thin to be a photo; leave it out")
        if width * height > limits.picture_pixels:
            raise TooLarge(
                f"{path.name} is {width}x{height}: more than {limits.picture_pixels / 1e6:.3g} million pixels; "
                "scale it down"
            )
        pixels += width * height
    if pixels > limits.pixels:
        raise TooLarge(f"{pixels / 1e6:.0f} million pixels, {limits.pixels / 1e6:.3g} are allowed; {_SEND_LESS}")
    return video


def _size(path: Path, video: bool) -> tuple[int, int]:
    # FFmpeg would also read playlists, which name other files and addresses: a video is only what starts as one.
    try:
        with quiet_pillow():
            return video_size(path) if video else picture_size(path)
    except InputError as error:
        raise WrongType(str(error).replace(f"{path.parent}/", "")) from error


def _quoted(name: str) -> str:
    return repr(printable(name[:80]))


_SEND_LESS = "send less at once"
