"""What the parts that models are built from take: memory at their worst, and operations, from sizes alone.

kept, products: bytes of a number in tokens and in products, see `models.mixed`. Memory is what is needed at once; what
an allocator holds beyond that isn't in it. Operations are multiplications and additions.
"""

from quantvggt.models.dpt import FUSED_CHANNELS
from quantvggt.nn.block import MLP_ROWS_PER_CHUNK
from quantvggt.nn.thinned import STRIDE

FLOAT32 = 4
_BLOCK = 12  # numbers in a block's matrices, per square of its width
_ACTIVATED = 16  # numbers a pixel while raw maps become answers
_HIDDEN = 8  # numbers that an MLP's hidden layer has before and after its GELU, per width


def block_bytes(dim: int, tokens: int, kept: int, products: int, hidden: int | None = None) -> int:
    """Of a transformer block on so many tokens, its input included; hidden: numbers between an MLP's two layers, for
    each token, None: those of `nn.block.Mlp`. An MLP's as on a GPU: on a CPU it takes fewer rows at once."""
    rows = min(tokens, MLP_ROWS_PER_CHUNK)
    attention = dim * tokens * (3 * kept + 4 * products + 4 * FLOAT32)
    mlp = dim * tokens * (2 * kept + products) + (hidden or _HIDDEN * dim) * rows * (products + FLOAT32) // 2
    return max(attention, mlp)


def dense_bytes(features: int, frames: int, height: int, width: int, size: int) -> int:
    """Of a `DPTHead` with a map per frame on so many frames at once, beside the tokens it reads; size: bytes of a
    number in it. The map at full size, and beside it a table of places, or what the last convolutions take and give."""
    maps = features // 2 + max(features // 2, 2 * FUSED_CHANNELS) + _ACTIVATED
    return maps * size * frames * height * width


def block_operations(dim: int, tokens: int, seen: int) -> int:
    """Of a transformer block on so many tokens that see so many each."""
    return 2 * _BLOCK * dim**2 * tokens + 4 * dim * tokens * seen


def seen_by_all(frames: int, one: int, special: int, attention: str) -> int:
    """How many tokens one token sees in attention over frames of `one` tokens, `special` of them no patches."""
    others = one if attention == "exact" else special + (one - special) // STRIDE**2
    return one + (frames - 1) * others


def dense_operations(features: int, frames: int, height: int, width: int) -> int:
    """Of a `DPTHead` with a map per frame."""
    return (11 * features**2 + 9 * FUSED_CHANNELS * features) * frames * height * width
