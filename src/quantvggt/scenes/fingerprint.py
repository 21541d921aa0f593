"""Which files frames come from, told by what the files hold, wherever they lie."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from quantvggt.core.errors import InputError

_ENDS = 2**20  # bytes at either end of a file that its fingerprint looks at: a video is large
_SHORT = 16


def fingerprint(path: str) -> str:
    """SHA-256, in hex, of a file's length, first and last MiB. Raises InputError if it can't be read."""
    try:
        with open(path, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(str(length).encode() + file.read(_ENDS))
            file.seek(max(_ENDS, length - _ENDS))
            digest.update(file.read())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check the path") from error
    return digest.hexdigest()


def frame_prints(source: Mapping[str, Any]) -> list[str] | None:
    """A text for each frame of a clip with that `source`, the same for the same file or frame of a video, and for all
    frames of a synthetic scene. None if the source doesn't say what the frames were read from."""
    if source.get("kind") == "synthetic":
        return [f"synthetic {source['seed']}"] * int(source.get("frames", 1))
    frames = source.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) and "path" in frame for frame in frames):
        return None
    of_files = {
        path: fingerprint(path)[:_SHORT] for path in {frame["path"] for frame in frames} if os.path.isfile(path)
    }
    if len(of_files) < len({frame["path"] for frame in frames}):
        return None  # they have gone since
    return [of_files[frame["path"]] + (f" {frame['frame']}" if "frame" in frame else "") for frame in frames]
