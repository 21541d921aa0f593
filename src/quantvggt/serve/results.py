"""A job's result: one zip, from which single formats are read without unpacking it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from quantvggt.core.files import atomic_file
from quantvggt.serve.limits import MEBI


def pack(folder: Path, target: Path) -> None:
    """All files of a folder, stored as they are: most are compressed already."""
    with atomic_file(target) as temporary, ZipFile(temporary, "w", ZIP_STORED) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(file, file.relative_to(folder).as_posix())


class Packed:
    """A zip that stays readable while it is open, also when its file is removed meanwhile."""

    def __init__(self, path: Path) -> None:
        self._archive = ZipFile(path)

    def is_file(self, name: str) -> bool:
        """Whether it has a file of that name, rather than a folder."""
        return name in self._archive.namelist()

    def file(self, name: str) -> Iterator[bytes]:
        """The content of a file, in pieces."""
        with self._archive, self._archive.open(name) as source:
            yield from _pieces(source)

    def folder(self, name: str) -> Iterator[bytes]:
        """A zip of the files in a folder, in pieces."""
        out = _Drain()
        with self._archive, ZipFile(out, "w", ZIP_STORED) as target:
            for entry in self._archive.infolist():
                if entry.filename.startswith(f"{name}/"):
                    copy = ZipInfo(entry.filename, entry.date_time)
                    copy.external_attr, copy.file_size = entry.external_attr, entry.file_size
                    with self._archive.open(entry) as source, target.open(copy, "w") as writer:
                        for piece in _pieces(source):
                            writer.write(piece)
                            yield out.take()
        yield out.take()


class _Drain:
    """A file that can only be written to, and gives what was written since it was last asked."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._waiting.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        taken, self._waiting = b"".join(self._waiting), []
        return taken


def _pieces(source: IO[bytes]) -> Iterator[bytes]:
    while piece := source.read(MEBI):
        yield piece


def remove(folder: Path) -> None:
    """A folder with all that is in it; none is fine."""
    shutil.rmtree(folder, ignore_errors=True)
