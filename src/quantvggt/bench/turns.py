"""Finished turns of a benchmark on disk, so that an interrupted one goes on."""

import os
from pathlib import Path
from typing import Any

from quantvggt.core.errors import InputError
from quantvggt.jobs.store import Store, read_entry, task_of

Turn = dict[str, Any]


class Turns:
    """What each side's turns gave, in a file if `path` is not None; turns of another task are forgotten.

    task: JSON-able, all that the numbers depend on. The package's code is part of it without being named: what it
    computes in which time is measured. Raises InputError if the file is something else.
    """

    def __init__(self, path: str | os.PathLike[str] | None, task: dict[str, Any]) -> None:
        self._turns: list[Turn] = []
        self._store = None
        if path is not None:
            path = Path(path)
            if path.exists() and read_entry(path) is None:
                raise InputError(f"{path} does not hold an interrupted benchmark; name another file, or remove it")
            self._store, self._name = Store(path.parent, task_of(task)), path.name
            self._turns = self._store.read(self._name) or []

    def of(self, side: str, frames: int) -> list[Turn]:
        """The finished ones of a side, in order: `seconds` and `peak_bytes`."""
        return [turn for turn in self._turns if (turn["side"], turn["frames"]) == (side, frames)]

    def add(self, side: str, frames: int, answer: Turn) -> None:
        """Keep one."""
        self._turns.append({**answer, "side": side, "frames": frames})
        if self._store is not None:
            self._store.write(self._name, self._turns)

    def discard(self) -> None:
        """All is done: the file goes."""
        if self._store is not None:
            self._store.remove(self._name)
