"""The two errors a caller may want to catch."""


class QuantVGGTError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(QuantVGGTError, ValueError):
    """The caller's mistake: the message names the file or argument and the remedy.

    The command line prints it as one line and exits with code 2.
    """
