"""The results file: what was measured, and one row per finished cell; written after every cell."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from quantvggt.core.errors import InputError
from quantvggt.core.files import atomic_file
from quantvggt.evaluate.run import Row
from quantvggt.scenes.synthetic import HELD_OUT_SEED


@dataclass(frozen=True)
class Setup:
    """What every cell is judged on; rows of different setups don't belong into one file.

    scenes: held-out scenes, from seed `first_seed` on; frames: in each clip, evaluation and calibration alike;
    dense_frames: of each clip, whose depth and points are judged; cameras are those of all frames.
    """

    scenes: int = 100
    frames: int = 8
    dense_frames: int = 2
    first_seed: int = HELD_OUT_SEED


STANDARD = Setup()
ORIGIN = ("versions", "machine", "commit")


@dataclass
class Results:
    """rows: by the key of their cell, in the order in which they were measured.

    older: versions and machine of rows that don't carry their own, which rows have done since; as it was found.
    """

    setup: Setup
    rows: dict[str, Row] = field(default_factory=dict)
    older: dict[str, Any] = field(default_factory=dict)

    def origin(self, row: Row) -> dict[str, Any]:
        """What a row was measured with: its "versions", "machine" and "commit", as far as they are known."""
        source = row if "versions" in row else self.older
        return {name: source[name] for name in ORIGIN if name in source}

    @classmethod
    def load(cls, path: Path, setup: Setup) -> "Results":
        """What lies at `path`, or nothing yet.

        Raises InputError if it is no results file, or one of another setup.
        """
        if not path.exists():
            return cls(setup)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            theirs, rows = Setup(**stored["setup"]), {row["key"]: row for row in stored["rows"]}
            older = {name: stored[name] for name in ORIGIN if name in stored}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is no results file of the study ({error!r}); name another --results") from error
        if theirs != setup:
            raise InputError(f"{path} was measured on {theirs}, not on {setup}; name another --results")
        return cls(setup, rows, older)

    def save(self, path: Path) -> None:
        """JSON with one line a row, so that versions of the file can be compared."""
        head = {"setup": asdict(self.setup), **self.older}
        lines = [f'  "{name}": {json.dumps(value)},' for name, value in head.items()]
        rows = ",\n".join(f"    {json.dumps(row, allow_nan=False)}" for row in self.rows.values())
        text = "\n".join(["{", *lines, '  "rows": [', rows, "  ]", "}", ""])
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
