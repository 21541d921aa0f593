"""What the kernels compile to on each chip: no GPU is needed to see spills, shared memory and instructions."""

from typing import Any

import pytest
import torch

from offline import Compiled, compile_for
from quantvggt.kernels.contract import RANKS, Attention, IntLinear, RotateQuantize
from quantvggt.kernels.triton import attention, attention8, linear, project, rotate
from quantvggt.kernels.triton.launch import Launch
from quantvggt.kernels.triton.tiles import CANDIDATES, CHIPS, FEW_ROWS, linear_tile, scores_tile

INT8_PRODUCTS = r"mma\.sync\S*\.s8\.s8|wgmma\.mma_async\S*\.s8\.s8|tcgen05\.mma\S*kind::i8"
OWN_PRODUCTS = {90: r"wgmma\.mma_async\S*\.s8\.s8"}
TO_BFLOAT16 = r"cvt\.(r\w)\S*\.bf16(?:x2)?\.f32"
FRAME = 1041
ROWS = 20 * FRAME
# VGGT's layers: DINOv2's, the trunk's and the camera head's.
LAYERS = [(1024, 3072), (1024, 1024), (1024, 4096), (4096, 1024), (2048, 6144), (2048, 8192), (8192, 2048)]
EPILOGUES = ["bias", "gelu", "residual"]
every_chip = pytest.mark.parametrize("capability", CHIPS)


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def linear_launch(
    capability: int, rows: int, k: int, n: int, packed: bool, epilogue: str, dtype: torch.dtype, rank: int
) -> Launch:
    weight = empty(n, k // 8, dtype=torch.int32) if packed else empty(n, k, dtype=torch.int8)
    beside = (empty(n), empty(rows, n)) if epilogue == "residual" else (None, None)
    q, row_scale = empty(rows, k + rank, dtype=torch.int8), empty(rows, 2 if rank else 1)
    branch = (empty(n, rank, dtype=torch.int8), empty(n)) if rank else (None, None)
    step = IntLinear(q, row_scale, weight, empty(n), empty(n), dtype, epilogue == "gelu", *beside, *branch)
    return linear.plan(step, step.empty(), linear_tile(step, CHIPS[capability]))


def rotation(
    rows: int, k: int, dtype: torch.dtype, rotated: bool = True, rank: int = 0, **options: Any
) -> RotateQuantize:
    vector = empty(k)
    signs = empty(k, dtype=torch.int8) if rotated else None
    options = {"norm_weight": vector, "norm_bias": vector} | options
    if rank:
        options |= {"basis": empty(k, rank, dtype=torch.int8), "basis_scale": empty(1)}
    return RotateQuantize(empty(rows, k, dtype=dtype), signs, vector, empty(2), 4, **options)


def kinds_of_rotation(k: int) -> list[dict[str, Any]]:
    vector = empty(k)
    return [
        {},
        {"frame_tokens": FRAME, "special_tokens": 5},
        {"asymmetric": True, "shift": vector, "presmooth": vector, "norm_weight": None, "norm_bias": None},
        {"rotated": False},
    ]


def rotate_launch(step: RotateQuantize) -> Launch:
    return rotate.plan(step, *step.empty())


def attention_launch(frames: int, heads: int, d: int, dtype: torch.dtype) -> Launch:
    qkv, weight, table = empty(frames, FRAME, 3 * heads * d, dtype=dtype), empty(d), empty(FRAME, d)
    step = Attention(qkv, heads, weight, weight, weight, weight, 1e-5, table, table)
    return attention.plan(step, qkv.new_empty(2, frames, FRAME, heads, d))


def scores_launches(capability: int, d: int, dtype: torch.dtype, thinned: bool) -> list[Launch]:
    """The rounding, and the rest."""
    heads, kept = 16, 281
    seen = empty(FRAME) if thinned else None
    step = Attention(empty(1, ROWS, 3 * heads * d, dtype=dtype), heads, *[None] * 4, 0.0, None, None, seen, 8)
    width = attention8.width_of(step)
    integers, scales = empty(2, 1, heads, ROWS, width, dtype=torch.int8), empty(2, 1, heads, ROWS)
    others = attention8.Shared()
    if thinned:
        count = ROWS // FRAME * kept
        keys, values = (empty(1, heads, count, w, dtype=t) for w, t in ((width, torch.int8), (d, dtype)))
        others = attention8.Shared(keys, empty(1, heads, count), values, empty(count), kept)
    prepared, mean = empty(2, 1, ROWS, heads, d, dtype=dtype), empty(1, heads, d)
    rounding = attention8.plan_rounding(step, prepared, mean, integers, scales)
    tile = scores_tile(step, CHIPS[capability])
    return [rounding, attention8.plan(step, integers, scales, others, step.empty(), tile)]


def check_scores(capability: int, d: int, dtype: torch.dtype, thinned: bool) -> None:
    rounding, rest = (compile_for(each, capability) for each in scores_launches(capability, d, dtype, thinned))
    check(rounding, capability)
    check(rest, capability)
    assert rest.found(INT8_PRODUCTS)
    assert rest.found(OWN_PRODUCTS.get(capability, INT8_PRODUCTS))
    assert rest.found("cp.async"), "keys and values are not read ahead"


def check(made: Compiled, capability: int) -> None:
    assert made.spilled == 0, f"{made.spilled} bytes a thread, {made.registers} registers"
    assert made.shared <= CHIPS[capability].shared
    # Rounded to nearest; in Triton's interpreter it isn't, so no other test sees it.
    assert set(made.found(TO_BFLOAT16)) <= {"rn"}


def check_linear(
    capability: int, rows: int, k: int, n: int, packed: bool, epilogue: str, dtype: torch.dtype, rank: int = 0
) -> None:
    made = compile_for(linear_launch(capability, rows, k, n, packed, epilogue, dtype, rank), capability)
    check(made, capability)
    assert made.found(INT8_PRODUCTS)
    if rows > FEW_ROWS and capability in OWN_PRODUCTS:
        assert made.found(OWN_PRODUCTS[capability])
    assert made.found("cp.async"), "tiles are not read ahead"


def check_project(capability: int, step: RotateQuantize) -> None:
    made = compile_for(project.plan(step, *step.empty()), capability)
    check(made, capability)
    assert made.found(INT8_PRODUCTS)


@pytest.mark.parametrize("packed", [False, True])
@every_chip
def test_products_are_int8_instructions_without_spills(capability: int, packed: bool) -> None:
    check_linear(capability, ROWS, 1024, 4096, packed, "residual", torch.float32)


@pytest.mark.parametrize("capability", [80, 90])
def test_few_rows_too(capability: int) -> None:
    check_linear(capability, 20, 2048, 6144, True, "bias", torch.bfloat16)


@pytest.mark.parametrize("rank", [16, 64])
@pytest.mark.parametrize("capability", [80, 90])
def test_a_branch_too(capability: int, rank: int) -> None:
    check_linear(capability, ROWS, 1024, 4096, rank == 64, "residual", torch.float32, rank)


@pytest.mark.parametrize("k", [1024, 384])
def test_a_token_s_part_is_int8_instructions_without_spills(k: int) -> None:
    check_project(90, rotation(ROWS, k, torch.bfloat16, rank=32))


@pytest.mark.parametrize("rank", [0, 32])
@pytest.mark.parametrize("k", [1024, 4096, 384])
def test_a_token_is_rotated_without_spills_and_without_matrix_units(k: int, rank: int) -> None:
    step = rotation(ROWS, k, torch.float32, frame_tokens=FRAME, special_tokens=5, rank=rank)
    made = compile_for(rotate_launch(step), 90)
    check(made, 90)
    assert not made.found("mma")
    assert not made.found(r"fma\.rn\.f32"), "each product is rounded before it is added, as in the reference"
    assert not made.found(r"div\.full|div\.approx"), "divisions are exact"


def test_queries_and_keys_are_prepared_without_spills() -> None:
    made = compile_for(attention_launch(20, 16, 64, torch.bfloat16), 90)
    check(made, 90)
    assert made.found(TO_BFLOAT16)


@pytest.mark.parametrize(("capability", "thinned"), [(89, False), (90, True)])
def test_scores_are_int8_instructions_without_spills(capability: int, thinned: bool) -> None:
    check_scores(capability, 64, torch.bfloat16, thinned)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rows", [ROWS, 20])
@every_chip
def test_every_layer(capability: int, rows: int, packed: bool, epilogue: str, dtype: torch.dtype) -> None:
    for k, n in LAYERS:
        check_linear(capability, rows, k, n, packed, epilogue, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("epilogue", "dtype"), [("residual", torch.float32), ("gelu", torch.bfloat16)])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rows", [ROWS, 20])
@pytest.mark.parametrize("rank", RANKS)
@every_chip
def test_every_branch(capability: int, rank: int, rows: int, packed: bool, epilogue: str, dtype: torch.dtype) -> None:
    check_linear(capability, rows, 1024, 4096, packed, epilogue, dtype, rank)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k", [64, 384, 768, 1024, 2048, 4096, 8192])
@every_chip
def test_every_token(capability: int, k: int, dtype: torch.dtype) -> None:
    for options in kinds_of_rotation(k):
        check(compile_for(rotate_launch(rotation(ROWS, k, dtype, **options)), capability), capability)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [16, 64])
@pytest.mark.parametrize("k", [64, 384, 1024, 8192])
@every_chip
def test_every_token_s_part(capability: int, k: int, rank: int) -> None:
    for options in kinds_of_rotation(k)[1:3]:
        step = rotation(ROWS, k, torch.float32, rank=rank, **options)
        check(compile_for(rotate_launch(step), capability), capability)
        check_project(capability, step)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("d", [32, 48, 64, 128])
@every_chip
def test_every_head(capability: int, d: int, dtype: torch.dtype) -> None:
    check(compile_for(attention_launch(20, 16, d, dtype), capability), capability)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("thinned", [False, True])
@pytest.mark.parametrize("d", [32, 48, 64, 128])
@every_chip
def test_all_scores(capability: int, d: int, thinned: bool, dtype: torch.dtype) -> None:
    check_scores(capability, d, dtype, thinned)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
@every_chip
def test_candidates_take_no_less_shared_memory_than_is_thought(capability: int, packed: bool) -> None:
    """So what is not tried for want of it would not have fitted."""
    weight = empty(4096, 128, dtype=torch.int32) if packed else empty(4096, 1024, dtype=torch.int8)
    step = IntLinear(empty(ROWS, 1024, dtype=torch.int8), empty(ROWS), weight, empty(4096), None, torch.float32)
    for tile in CANDIDATES:
        made = compile_for(linear.plan(step, step.empty(), tile), capability)
        assert made.shared >= tile.shared_bytes(4 if packed else 8), tile
