"""Numbers as text, by the million: what COLMAP's text files are made of."""

import numpy as np
from numpy.typing import NDArray

ROWS = 1 << 16
"""Worked on at a time: what stays in a processor's cache."""
SPACE, MINUS, POINT, ZERO, NEWLINE = b" -.0\n"


def decimals_for(values: NDArray[np.float64], digits: int = 8) -> int:
    """Digits after the point with which most of these values keep that many significant ones."""
    sizes = np.abs(values[values != 0])
    if not sizes.size:
        return 0
    return int(np.clip(digits - 1 - np.floor(np.log10(np.median(sizes))), 0, 12))


def table(columns: list[tuple[NDArray, int]], ends: NDArray[np.bool_] | None = None) -> bytes:
    """Rows of numbers, a space between two and a line break at the end.

    columns: values [N] and how many digits after the point each of them gets, 0 for whole numbers. ends [N]: the rows
    that end their line, all of them if None; the others are followed by a space.
    """
    count = len(columns[0][0])
    if count > ROWS:
        parts = (slice(start, start + ROWS) for start in range(0, count, ROWS))
        some = ([(values[part], decimals) for values, decimals in columns] for part in parts)
        cuts = (None if ends is None else ends[start : start + ROWS] for start in range(0, count, ROWS))
        return b"".join(map(table, some, cuts))
    if not count:
        return b""
    pieces = [_column(values, decimals) for values, decimals in columns]
    pieces[-1][0][slice(None) if ends is None else ends, -1] = NEWLINE
    letters = np.concatenate([piece for piece, _ in pieces], axis=1)
    shown = np.concatenate([kept for _, kept in pieces], axis=1)
    return letters[shown].tobytes()


def _column(values: NDArray, decimals: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Letters [N, L], right-aligned, a space last, and which of them are shown."""
    if values.dtype.kind == "f":
        largest = float(np.abs(values).max()) if len(values) else 0.0
        # int64 holds 18 digits: a stray point far away costs the others digits after the point, nothing else.
        decimals = min(decimals, max(0, 17 - len(str(int(min(largest, 1e17))))))
        values = np.rint(np.clip(values, -1e17, 1e17).astype(np.float64) * 10.0**decimals).astype(np.int64)
    rest = np.abs(values.astype(np.int64))
    whole = max(1, len(str(int(rest.max()))) - decimals)
    width = 1 + whole + (decimals + 1 if decimals else 0) + 1
    letters = np.full((len(rest), width), SPACE, np.uint8)
    shown = np.ones((len(rest), width), bool)
    place = width - 2
    for digit in range(decimals + whole):
        if decimals and digit == decimals:
            letters[:, place] = POINT
            place -= 1
        if digit > decimals:
            shown[:, place] = rest > 0
        rest, value = np.divmod(rest, 10)
        letters[:, place] = value + ZERO
        place -= 1
    negative = values < 0
    letters[:, 0], shown[:, 0] = MINUS, negative
    # The sign stands before the first digit that is shown: hidden digits lie between, so nothing else is needed.
    return letters, shown
