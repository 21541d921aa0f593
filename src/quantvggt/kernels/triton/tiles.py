"""Tile sizes for the chips that are known, as data: the first call compiles one kernel and tries nothing out.

Chosen by what each chip's matrix instructions and shared memory take, and compiled for each of them by the tests; no
GPU has been asked yet which are the fastest. Who asks his own (`tune`) gets those that were the quickest there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

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

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}x{self.depth}, {self.warps} warps, {self.stages} stages"

    def shared_bytes(self, weight_bits: int) -> int:
        """What `int_linear` takes of shared memory at least: what is on its way, and 4-bit weights once spread. Chips
        whose matrix units read shared memory hold a stage more."""
        bits = (self.stages - 1) * self.depth * (8 * self.rows + weight_bits * self.columns)
        return bits // 8 + (self.depth * self.columns if weight_bits < 8 else 0)


class Shape(NamedTuple):
    """What the best tile of a product depends on. rows: of ROWS; weight_bits: 8 or 4, as they lie in memory."""

    rows: int
    k: int
    n: int
    weight_bits: int
    rank: int


ROWS = (FEW_ROWS, 1536, 3072, 8192)
"""Products with up to so many rows share a tile, those with more have the last one's: the camera head's, those of one
and two frames, of many."""


@dataclass(frozen=True)
class Chip:
    """Of one compute capability: the shared memory that a program can have, in bytes, the tile of `int_linear` for up
    to FEW_ROWS rows and for more, and that of attention with 8-bit queries (rows) and keys (columns); tuned: of shapes
    of products that were tried out on the GPU that is here.

    `many` leaves a thread no more than 128 registers where it can, so that two programs share a processor and one
    multiplies while the other writes.
    """

    shared: int
    few: Tile
    many: Tile
    scores: Tile = Tile(128, 64, 64, 4, 3)
    tuned: Mapping[Shape, Tile] = field(default_factory=dict)


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
CANDIDATES = (
    Tile(16, 64, 128, 4, 4),
    Tile(32, 64, 128, 4, 3),
    Tile(32, 128, 128, 4, 4),
    Tile(64, 128, 128, 4, 3),
    Tile(64, 256, 128, 8, 3),
    Tile(128, 64, 128, 4, 3),
    Tile(128, 128, 64, 8, 3),
    Tile(128, 128, 64, 8, 4),
    Tile(128, 128, 128, 8, 3),
    Tile(128, 128, 128, 8, 4),
    Tile(128, 256, 64, 8, 3),
    Tile(128, 256, 128, 8, 3),
)
"""Those that a GPU has to decide about."""
INTERPRETED = Chip(1 << 20, few=Tile(32, 32, 64, 1, 1), many=Tile(64, 128, 64, 1, 1), scores=Tile(32, 32, 64, 1, 1))


def chip_of(capability: int) -> Chip:
    """The newest known that is not newer: for 87 that is 86, for 121 it is 120."""
    return CHIPS[max(known for known in CHIPS if known <= capability)]


def linear_tile(step: IntLinear, chip: Chip) -> Tile:
    tuned = chip.tuned.get(shape_of(step)) if chip.tuned else None
    return tuned or (chip.few if step.rows <= FEW_ROWS else chip.many)


def shape_of(step: IntLinear) -> Shape:
    rows = next((rows for rows in ROWS if step.rows <= rows), ROWS[-1])
    bits = 4 if step.weight.element_size() == 4 else 8
    return Shape(rows, step.channels, len(step.weight), bits, step.rank)


def candidates(shape: Shape, chip: Chip) -> list[Tile]:
    """What is worth trying for products of this shape: no more rows than there are, and what the chip can hold."""
    return [
        tile for tile in CANDIDATES if tile.rows <= shape.rows and tile.shared_bytes(shape.weight_bits) <= chip.shared
    ]


def rotate_warps(width: int) -> int:
    """For a token of so many channels: 8 of them a thread, so that three butterflies in a row need no exchange."""
    return min(16, max(1, width // 256))


def scores_tile(step: Attention, chip: Chip) -> Tile:
    """With more warps where more is held: of wide heads, and of a second set of keys where attention is thinned."""
    tile, wide, thinned = chip.scores, step.head_size > 64, step.seen is not None
    if not (wide or thinned):
        return tile
    return replace(tile, columns=tile.columns // 2 if wide and thinned else tile.columns, warps=8)
