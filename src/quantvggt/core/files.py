"""Files written beside, then renamed: a reader never sees half a file, and a failed write leaves the old one. And small
files by strangers, read with care."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantvggt.core.errors import InputError


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on error it is removed.

    Raises InputError if the folder cannot be created or written.
    """
    path = Path(path)
    temporary = _make(path, lambda: _temporary_file(path))
    try:
        yield temporary
        os.replace(temporary, path)
    except IsADirectoryError as error:
        raise InputError(f"cannot write {path}: it is a folder; name a file") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it replaces `path`, on error it is removed.

    The caller decides beforehand whether an existing folder at `path` may be replaced.
    Raises InputError if the folder cannot be created or written.
    """
    path = Path(path)
    temporary = _make(path, lambda: Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)))
    try:
        yield temporary
        if path.is_dir():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            os.rename(path, old / path.name)
            os.rename(temporary, path)
            shutil.rmtree(old)
        else:
            os.rename(temporary, path)
        path.chmod(0o777 & ~_umask())
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_json(path: Path, most_bytes: int) -> Any:
    """What a small JSON file holds that anybody may have written.

    Raises InputError if it cannot be read, is larger than `most_bytes`, or is not JSON.
    """
    try:
        if path.stat().st_size > most_bytes:
            raise InputError(f"{path}: larger than {most_bytes} bytes; this is no such file of a checkpoint")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); it is damaged, fetch it again") from error


def _temporary_file(path: Path) -> Path:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    os.chmod(name, 0o666 & ~_umask())
    return Path(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _make(path, create):  # type: ignore[no-untyped-def]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return create()
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose an output path you may write") from error
