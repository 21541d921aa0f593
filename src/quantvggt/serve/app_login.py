"""Who may use the app: names and passwords that no other user of this machine can read from a command line."""

import os
from pathlib import Path

from quantvggt.core.errors import InputError

VARIABLE = "QUANTVGGT_LOGIN"


def read_login(file: str | None) -> list[tuple[str, str]]:
    """USER:PASSWORD, one a line, of a file, or without one of the environment's QUANTVGGT_LOGIN; none: anybody may.

    Raises InputError if the file can't be read, or a line has no colon or nothing on one side of it.
    """
    text, where = os.environ.get(VARIABLE, ""), VARIABLE
    if file is not None:
        where = file
        try:
            text = Path(file).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read the logins in {file}: {getattr(error, 'strerror', error)}") from error
    pairs = [line.strip().partition(":")[::2] for line in text.splitlines() if line.strip()]
    for number, (user, password) in enumerate(pairs, 1):
        if not user or not password:
            raise InputError(f"line {number} of {where} is no login; write USER:PASSWORD")
    if file is not None and not pairs:
        raise InputError(f"{file} has no logins; write USER:PASSWORD, one a line")
    return pairs
