"""Finished turns of a benchmark on disk, so that an interrupted one goes on."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from quantvggt.core.errors import InputError
from quantvggt.core.files import atomic_file

Turn = dict[str, Any]


class Turns:
    """What each side's turns gave, in a file if `path` is not None; turns of another task are forgotten.

    task: JSON-able, all that the numbers depend on. The code is part of it without being named.
    Raises InputError if the file is something else.
    """

    def __init__(self, path: str | os.PathLike[str] | None, task: dict[str, Any]) -> None:
        self._path = None if path is None else Path(path)
        self._task = hashlib.sha256(json.dumps({**task, "code": _code()}, sort_keys=True).encode()).hexdigest()
        self._turns: list[Turn] = []
        if self._path is not None and self._path.exists():
            kept = _read(self._path)
            self._turns = kept["turns"] if kept["task"] == self._task else []

    def of(self, side: str, frames: int) -> list[Turn]:
        """The finished ones of a side, in order: `seconds` and `peak_bytes`."""
        return [turn for turn in self._turns if (turn["side"], turn["frames"]) == (side, frames)]

    def add(self, side: str, frames: int, answer: Turn) -> None:
        """Keep one."""
        self._turns.append({**answer, "side": side, "frames": frames})
        if self._path is not None:
            with atomic_file(self._path) as temporary:
                temporary.write_text(json.dumps({"task": self._task, "turns": self._turns}))

    def discard(self) -> None:
        """All is done: the file goes."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        kept: dict[str, Any] = json.loads(path.read_text())
        if all({"side", "frames", "seconds", "peak_bytes"} <= turn.keys() for turn in kept["turns"]) and kept["task"]:
            return kept
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise InputError(f"{path} does not hold an interrupted benchmark; name another file, or remove it")


def _code() -> str:
    """A digest of this package's sources: what they compute in which time is measured."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for file in sorted(file for file in root.rglob("*") if file.suffix in (".py", ".cpp", ".h")):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
