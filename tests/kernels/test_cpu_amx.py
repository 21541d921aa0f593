"""The AMX path's source on emulated tiles: this shows everything but the silicon. For attention see there."""

from functools import partial

import pytest
import torch

from quantvggt.core.packing import pack_int4
from quantvggt.core.rotation import random_signs
from quantvggt.kernels import reference
from quantvggt.kernels.cpu import attention, build, paths, proof
from quantvggt.kernels.cpu.paths import CpuPath


@pytest.fixture
def emulated(amx_library, monkeypatch):
    monkeypatch.setattr(build, "library", lambda: (amx_library, ""))
    return CpuPath("amx")


# (M, K, N): ragged rows, columns and steps; one tile and several; K below, at and beyond 64; blocks of both.
SHAPES = [(1, 1, 1), (1, 64, 16), (16, 64, 32), (17, 65, 33), (33, 100, 40), (50, 1024, 100), (331, 600, 130)]


@pytest.mark.parametrize("weight_bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_the_references_bit_for_bit(emulated, same_bits, threads, shape, weight_bits):
    m, k, n = shape
    g = torch.Generator().manual_seed(m + k + n)
    half = 1 << (weight_bits - 1)
    q = torch.randint(-128, 128, (m, k), dtype=torch.int8, generator=g)
    weight = torch.randint(-half, half, (n, k), dtype=torch.int8, generator=g)
    row_scale, weight_scale, bias = (torch.rand(rows, 1, generator=g) for rows in (m, n, n))
    stored = pack_int4(weight) if weight_bits == 4 else weight
    args = q, row_scale, stored, weight_scale, bias[:, 0]
    for dtype in (torch.float32, torch.bfloat16):
        residual = torch.randn(m, n, generator=g).to(dtype)
        for steps in ({}, {"gain": bias[:, 0], "residual": residual}):
            same_bits(emulated.int_linear(*args, dtype, **steps), reference.int_linear(*args, dtype, **steps))


def test_extreme_sums(emulated):
    k = 4096
    for left, right in ((-128, -128), (-128, 127), (127, -128)):
        q, weight = torch.full((40, k), left, dtype=torch.int8), torch.full((40, k), right, dtype=torch.int8)
        y = emulated.int_linear(q, torch.ones(40, 1), weight, torch.ones(40, 1), None, torch.float32)
        assert (y == k * left * right).all()


def test_tokens_are_quantized_as_by_the_reference(emulated, same_bits):
    x, signs = torch.randn(3, 17, 192), random_signs(192, 1)
    norm = {"norm_weight": torch.rand(192), "norm_bias": torch.rand(192)}
    got = emulated.rotate_quantize(x, signs, None, None, 4, **norm)
    for a, b in zip(got, reference.rotate_quantize(x, signs, None, None, 4, **norm), strict=True):
        same_bits(a, b)


def test_what_never_ran_on_a_cpu_is_compared_with_the_reference_first(emulated, amx_library, monkeypatch):
    monkeypatch.setattr(paths, "usable", lambda path, op: (True, "native"))
    assert CpuPath("amx").check(torch.device("cpu")) == (True, "native")
    right = CpuPath.int_linear
    monkeypatch.setattr(CpuPath, "int_linear", lambda *args: right(*args) + 1e-4)
    assert CpuPath("amx").check(torch.device("cpu")) == (False, proof.REASON)
    assert CpuPath("avx2").check(torch.device("cpu")) == (True, "native")


def test_attention_is_compared_too(emulated, amx_library, monkeypatch):
    if not hasattr(amx_library, "amxbf16_attention"):
        pytest.skip("the rest of the path needs AVX512-BF16")
    assert proof.attention_agrees(partial(attention.run, "amxbf16"))
    assert not proof.attention_agrees(lambda *args: 1.02 * attention.run("amxbf16", *args))
    monkeypatch.setattr(attention, "usable", lambda path, op: (True, "native"))
    monkeypatch.setattr(attention, "_proven", lambda path: False)
    assert attention.check("amxbf16", torch.device("cpu")) == (False, proof.REASON)
    assert attention.check("avx512bf16", torch.device("cpu"))[0]


def test_where_it_can_not_run_the_reason_is_given(monkeypatch):
    if "amx" not in build.PATHS:
        pytest.skip("not an x86 CPU")
    for answer, words in ((0, "this CPU has no AMX-INT8"), (-1, "the system does not let this process use AMX-INT8")):
        library = type("Library", (), {"amx_supported": staticmethod(lambda answer=answer: answer)})
        monkeypatch.setattr(build, "library", lambda library=library: (library, ""))
        assert CpuPath("amx").check(torch.device("cpu")) == (False, words)
