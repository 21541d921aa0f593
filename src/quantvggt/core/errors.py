"""The errors a caller may want to catch."""

from typing import Any


class QuantVGGTError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(QuantVGGTError, ValueError):
    """The caller's mistake: the message names the file or argument and the remedy.

    The command line prints it as one line and exits with code 2.
    """


class IncompleteError(QuantVGGTError):
    """Some of many tasks failed; `result` says what was done and what wasn't. The same call goes on with the rest."""

    def __init__(self, message: str, result: dict[str, Any]) -> None:
        super().__init__(message)
        self.result = result
