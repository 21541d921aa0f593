"""`int_linear` in one kernel: int8 x int8, or int8 x 4-bit weights that are spread in registers."""

import triton
import triton.language as tl
from torch import Tensor

from quantvggt.kernels.contract import IntLinear
from quantvggt.kernels.triton.launch import Launch
from quantvggt.kernels.triton.tiles import Tile

NEIGHBOURS = 8  # tiles below one another that run together, because they read the same weights


def plan(step: IntLinear, y: Tensor, tile: Tile) -> Launch:
    """The call that writes y."""
    k, n, m = step.channels, len(step.weight), step.rows
    return Launch(
        int_linear_kernel,
        (triton.cdiv(m, tile.rows) * triton.cdiv(n, tile.columns),),
        {
            "q": step.q,
            "row_scale": step.row_scale,
            "weight": step.weight,
            "weight_scale": step.weight_scale,
            "branch": step.branch,
            "branch_scale": step.branch_scale,
            "bias": step.bias,
            "gain": step.gain,
            "residual": step.residual,
            "y": y,
            "m": m,
            "n": n,
            "k": k,
            "words": step.weight.shape[1],
        },
        {
            "RANK": step.rank,
            "PACKED": step.weight.element_size() == 4,
            "GELU": bool(step.gelu),
            "EVEN": k % tile.depth == 0,
            "ROWS": tile.rows,
            "COLUMNS": tile.columns,
            "DEPTH": tile.depth,
            "NEIGHBOURS": NEIGHBOURS,
        },
        tile.warps,
        tile.stages,
    )


@triton.jit(do_not_specialize=["m"])
def int_linear_kernel(
    q, row_scale, weight, weight_scale, branch, branch_scale, bias, gain, residual, y, m, n, k, words,
    RANK: tl.constexpr, PACKED: tl.constexpr, GELU: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, NEIGHBOURS: tl.constexpr,
):  # fmt: skip
    tile_row, tile_column = _tile(m, n, ROWS, COLUMNS, NEIGHBOURS)
    row = tile_row * ROWS + tl.arange(0, ROWS)
    column = tile_column * COLUMNS + tl.arange(0, COLUMNS)
    # Rows and columns beyond the end are read as the last and not written: so no read needs a mask for them.
    safe_row = tl.minimum(row, m - 1).to(tl.int64)
    safe_column = tl.minimum(column, n - 1).to(tl.int64)
    depth = tl.arange(0, DEPTH)
    q_tile = q + safe_row[:, None] * (k + RANK) + depth[None, :]
    if PACKED:
        word = tl.arange(0, DEPTH // 8)
        shift = tl.arange(0, 8) * 4
        weight_tile = weight + safe_column[:, None] * words + word[None, :]
    else:
        weight_tile = weight + safe_column[None, :] * k + depth[:, None]

    total = tl.zeros([ROWS, COLUMNS], tl.int32)
    for start in range(0, k, DEPTH):
        left = tl.load(q_tile) if EVEN else tl.load(q_tile, mask=depth[None, :] < k - start, other=0)
        if PACKED:
            if EVEN:
                packed = tl.load(weight_tile)
            else:
                packed = tl.load(weight_tile, mask=word[None, :] < words - start // 8, other=0)
            nibbles = ((packed[:, :, None] >> shift[None, None, :]) & 15) - 8
            right = tl.trans(tl.reshape(nibbles.to(tl.int8), [COLUMNS, DEPTH]))
            weight_tile += DEPTH // 8
        else:
            right = tl.load(weight_tile) if EVEN else tl.load(weight_tile, mask=depth[:, None] < k - start, other=0)
            weight_tile += DEPTH
        total = tl.dot(left, right, total, out_dtype=tl.int32)
        q_tile += DEPTH

    first = tile_column * COLUMNS
    if COLUMNS > 128:
        left_half, right_half = _halves(total)
        _finish(
            left_half, q, row_scale, weight_scale, branch, branch_scale, bias, gain, residual, y, row, first, m, n, k,
            RANK, GELU,
        )  # fmt: skip
        total = right_half
        first += COLUMNS // 2
    _finish(
        total, q, row_scale, weight_scale, branch, branch_scale, bias, gain, residual, y, row, first, m, n, k, RANK,
        GELU,
    )  # fmt: skip


@triton.jit
def _halves(values):
    """Left and right half of the columns; nothing moves."""
    ROWS: tl.constexpr = values.shape[0]
    COLUMNS: tl.constexpr = values.shape[1]
    return tl.split(tl.permute(tl.reshape(values, [ROWS, 2, COLUMNS // 2]), [0, 2, 1]))


@triton.jit
def _finish(
    total, q, row_scale, weight_scale, branch, branch_scale, bias, gain, residual, y, row, first, m, n, k,
    RANK: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    """What follows the sums, in the reference's order."""
    column = first + tl.arange(0, total.shape[1])
    rows, columns = row < m, column < n
    SCALES: tl.constexpr = 1 if RANK == 0 else 2
    row_scale += row * SCALES
    values = total.to(tl.float32) * tl.load(row_scale, mask=rows, other=0.0)[:, None]
    values *= tl.load(weight_scale + column, mask=columns, other=0.0)[None, :]
    if branch is not None:
        beside = _branch(q, branch, row, column, m, n, k, RANK).to(tl.float32)
        beside *= tl.load(row_scale + 1, mask=rows, other=0.0)[:, None]
        values += beside * tl.load(branch_scale + column, mask=columns, other=0.0)[None, :]
    # 64 columns at a time, because what is read beside each number takes a register too.
    if total.shape[1] > 64:
        left, right = _halves(values)
        _write(left, bias, gain, residual, y, row, first, m, n, GELU)
        _write(right, bias, gain, residual, y, row, first + total.shape[1] // 2, m, n, GELU)
    else:
        _write(values, bias, gain, residual, y, row, first, m, n, GELU)


@triton.jit
def _branch(q, branch, row, column, m, n, k, RANK: tl.constexpr):
    """The branch's integer sums, of at least 32 terms as matrix units want them."""
    term = tl.arange(0, max(RANK, 32))
    q += tl.minimum(row, m - 1).to(tl.int64)[:, None] * (k + RANK) + k
    left = tl.load(q + term[None, :], mask=term[None, :] < RANK, other=0)
    branch += tl.minimum(column, n - 1).to(tl.int64)[None, :] * RANK
    right = tl.load(branch + term[:, None], mask=term[:, None] < RANK, other=0)
    return tl.dot(left, right, out_dtype=tl.int32)


@triton.jit
def _write(values, bias, gain, residual, y, row, first, m, n, GELU: tl.constexpr):
    column = first + tl.arange(0, values.shape[1])
    rows, columns = row < m, column < n
    if bias is not None:
        values += tl.load(bias + column, mask=columns, other=0.0)[None, :]
    if GELU:
        values = values * 0.5 * (1 + tl.erf(values * 0.7071067811865476))
    if gain is not None:
        values *= tl.load(gain + column, mask=columns, other=0.0)[None, :]
    inside = rows[:, None] & columns[None, :]
    place = row.to(tl.int64)[:, None] * n + column[None, :]
    if residual is not None:
        values += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + place, values.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _tile(m, n, ROWS: tl.constexpr, COLUMNS: tl.constexpr, NEIGHBOURS: tl.constexpr):
    """Row and column of this program's tile."""
    program = tl.program_id(0)
    down, across = tl.cdiv(m, ROWS), tl.cdiv(n, COLUMNS)
    band = program // (NEIGHBOURS * across)
    height = tl.minimum(down - band * NEIGHBOURS, NEIGHBOURS)
    inside = program % (NEIGHBOURS * across)
    return band * NEIGHBOURS + inside % height, inside // height
