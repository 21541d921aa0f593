"""Tile sizes for the chips that are known, as data: the first call compiles one kernel and tries nothing out.

Chosen by what each chip's matrix instructions and shared memory take, and compiled for each of them by the tests; no
GPU has been asked yet which are the fastest.
"""

from dataclasses import dataclass, replace

from quantvggt.kernels.contract import Attention, IntLinear

FEW_ROWS = 64


@dataclass(frozen=True)
class Tile:
    """rows x columns of the output by one program, `depth` channels at a time, `stages` of them on their way."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Chip:
    """Of one compute capability: the shared memory that a program can have, in bytes, the tile of `int_linear` for up
    to FEW_ROWS rows and for more, and that of attention with 8-bit queries (rows) and keys (columns).

    `many` leaves a thread no more than 128 registers where it can, so that two programs share a processor and one
    multiplies while the other writes.
    """

    shared: int
    few: Tile
    many: Tile
    scores: Tile = Tile(128, 64, 64, 4, 3)


_FEW = Tile(32, 64, 128, 4, 3)
_SMALL = Chip(101376, few=_FEW, many=Tile(128, 128, 64, 8, 3))
_LARGE = Chip(232448, few=_FEW, many=Tile(128, 128, 128, 8, 3), scores=Tile(128, 64, 64, 8, 3))
CHIPS = {
    80: Chip(166912, few=_FEW, many=Tile(128, 128, 64, 8, 4)),
    86: _SMALL,
    89: _SMALL,
    90: _LARGE,
    100: _LARGE,
    120: _SMALL,
}
OLDEST = min(CHIPS)
INTERPRETED = Chip(0, few=Tile(32, 32, 64, 1, 1), many=Tile(64, 128, 64, 1, 1), scores=Tile(32, 32, 64, 1, 1))


def chip_of(capability: int) -> Chip:
    """The newest known that is not newer: for 87 that is 86, for 121 it is 120."""
    return CHIPS[max(known for known in CHIPS if known <= capability)]


def linear_tile(step: IntLinear, chip: Chip) -> Tile:
    return chip.few if step.rows <= FEW_ROWS else chip.many


def rotate_warps(width: int) -> int:
    """For a token of so many channels: 8 of them a thread, so that three butterflies in a row need no exchange."""
    return min(16, max(1, width // 256))


def scores_tile(step: Attention, chip: Chip) -> Tile:
    """With more warps where more is held: of wide heads, and of a second set of keys where attention is thinned."""
    tile, wide, thinned = chip.scores, step.head_size > 64, step.seen is not None
    if not (wide or thinned):
        return tile
    return replace(tile, columns=tile.columns // 2 if wide and thinned else tile.columns, warps=8)
