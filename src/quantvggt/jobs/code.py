"""Which code made a result: what was finished by other code than today's isn't used again."""

import hashlib
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
SUFFIXES = (".py", ".cpp", ".h")


def code_digest(*rooms: str) -> str:
    """A text that changes with the Python and native sources of these rooms of the package; no room: of all of it.

    A room is a folder, or a module such as "api" or "study/inputs". Names of files count, times and places don't.
    """
    digest = hashlib.sha256()
    for place in [PACKAGE / room for room in sorted(rooms)] or [PACKAGE]:
        files = place.rglob("*") if place.is_dir() else [place.with_suffix(".py")]
        for file in sorted(file for file in files if file.suffix in SUFFIXES):
            content = file.read_bytes()
            digest.update(f"{file.relative_to(PACKAGE).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()
