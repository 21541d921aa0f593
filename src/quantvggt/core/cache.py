"""Where what a machine can make again is kept."""

import os
import stat
import tempfile
from pathlib import Path

from quantvggt.core.errors import InputError


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/quantvggt, else ~/.cache/quantvggt, else, for a user without a home, one in the temporary folder.

    The last is made here, for us alone. Raises InputError if that can't be, or if others may write there.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    if root:
        return Path(root) / "quantvggt"
    try:
        home = Path.home()
    except RuntimeError:  # HOME isn't set, and the system doesn't know the user
        return _temporary()
    # A container gives users whom its system doesn't know the root folder.
    return _temporary() if home == Path("/") else home / ".cache" / "quantvggt"


def _temporary() -> Path:
    folder = Path(tempfile.gettempdir()) / f"quantvggt-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise InputError(f"cannot make {folder} ({error.strerror}); XDG_CACHE_HOME can name another place") from error
    # Others may write into the temporary folder, and a library of theirs would run as ours.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InputError(f"{folder} may be written by others; XDG_CACHE_HOME can name another place")
    return folder
