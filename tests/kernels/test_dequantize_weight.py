"""Weights made floats: against numpy in float64, and every native path against the reference, bit for bit."""

import numpy as np
import pytest
import torch

import definition
from quantvggt.core.packing import pack_int4
from quantvggt.kernels.ops import dequantize_weight


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("inputs", [None, 6])
def test_each_number_times_its_rows_scale(dequantizing_backend, bits, inputs):
    g = torch.Generator().manual_seed(bits)
    q = torch.randint(-(1 << bits - 1), 1 << bits - 1, (7, 24), dtype=torch.int8, generator=g)
    scale = torch.rand(7, 1, generator=g) + 0.5
    true = q.numpy().astype(np.float64) * scale.numpy()
    if inputs:
        true = true.reshape(7, 24 // inputs, inputs).transpose(2, 1, 0)
    got = dequantize_weight(q if bits == 8 else pack_int4(q), scale, 24, torch.float32, inputs)
    assert got.is_contiguous()
    np.testing.assert_allclose(got.numpy(), true, rtol=2**-24)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "k", "inputs"), [(1, 1, None), (33, 300, 100), (70, 2304, 256), (64, 513, 171)])
def test_every_path_gives_the_same_bits(dequantizing_backend, threads, same_bits, dtype, n, k, inputs):
    g = torch.Generator().manual_seed(n)
    q = torch.randint(-8, 8, (n, k), dtype=torch.int8, generator=g)
    scale = torch.exp(8 * torch.randn(n, 1, generator=g))  # some products are too large or small for float16
    for weight in (16 * q, pack_int4(q)):
        for grouped in (None, inputs):
            call = weight, scale, k, dtype, grouped
            same_bits(dequantize_weight(*call), definition.dequantize_weight(*call))
