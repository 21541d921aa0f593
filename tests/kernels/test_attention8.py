"""Attention with 8-bit queries and keys: its definition from the formula, and how near exact attention it is."""

import math

import numpy as np
import pytest
import torch

import definition
from quantvggt.core.errors import InputError
from quantvggt.kernels import ops, reference, registry
from quantvggt.kernels.contract import Attention
from quantvggt.nn.rope import rope_tables
from quantvggt.nn.thinned import seen_by_others
from tiny import require_attention

CPU = torch.device("cpu")
BARE = (None, None, None, None, 0.0, None, None)


def _qkv(batch=2, n=60, heads=3, d=32, seed=0):
    return torch.randn(batch, n, 3 * heads * d, generator=torch.Generator().manual_seed(seed))


def _formula(qkv, heads, seen=None):
    """From docs and paper, in float64, head by head."""
    batch, n, width = qkv.shape
    d = width // (3 * heads)
    y = np.empty((batch, n, heads, d))
    q, k, v = qkv.double().numpy().reshape(batch, n, 3, heads, d).transpose(2, 0, 3, 1, 4)
    for b in range(batch):
        for h in range(heads):
            queries, keys = q[b, h], k[b, h] - k[b, h].mean(0)
            scales = [np.abs(x).max(1, keepdims=True) / 127 for x in (queries, keys)]
            integers = [np.rint(x / scale) for x, scale in zip((queries, keys), scales, strict=True)]
            scores = integers[0] @ integers[1].T * scales[0] * scales[1].T / math.sqrt(d)
            if seen is not None:
                frame, weights = np.arange(n) // len(seen), np.tile(seen.double().numpy(), n // len(seen))
                scores = scores + np.where(frame[:, None] == frame, 0, weights)
            p = np.exp(scores - scores.max(1, keepdims=True))
            y[b, :, h] = p / p.sum(1, keepdims=True) @ v[b, h]
    return torch.from_numpy(y).flatten(2)


def _lost(y, truth):
    return ((y.double() - truth.double()).norm() / truth.double().norm()).item()


@pytest.mark.parametrize("thin", [False, True])
def test_it_is_what_the_formula_says(thin):
    qkv = _qkv()
    seen = seen_by_others(20, 4, 4, 2, CPU) if thin else None
    # In float32 a number in the middle between two integers may become either.
    assert _lost(definition.attention(qkv, 3, *BARE, seen, 8), _formula(qkv, 3, seen)) < 1e-4


def test_norms_and_rotation_come_first():
    qkv, d = _qkv(1, 2 * 14, 2, 32), 32
    norms = [torch.rand(d, generator=torch.Generator().manual_seed(place)) + 0.5 for place in range(4)]
    rope = rope_tables(3, 3, 5, d, CPU)
    q, k, v = qkv.unflatten(-1, (3, 2, d)).unbind(2)
    q, k = (
        torch.nn.functional.layer_norm(x, (d,), weight, bias, 1e-5)
        for x, weight, bias in ((q, norms[0], norms[1]), (k, norms[2], norms[3]))
    )
    q, k = (reference.rotary(x.transpose(1, 2), *rope).transpose(1, 2) for x in (q, k))
    prepared = torch.stack((q, k, v), 2).flatten(2)
    assert _lost(definition.attention(qkv, 2, *norms, 1e-5, *rope, None, 8), _formula(prepared, 2)) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_near_exact_attention_wherever_keys_have_their_mean(dtype):
    require_attention(dtype)
    qkv = _qkv(1, 200, 2, 64)
    exact = definition.attention(qkv.double(), 2, *BARE)
    near = _lost(definition.attention(qkv.to(dtype), 2, *BARE, None, 8), exact)
    assert 1e-4 < near < 0.02
    shift = torch.zeros(3, 2, 64)
    shift[1, :, ::7] = 25.0  # as some channels of keys are; softmax doesn't see it
    assert _lost(definition.attention(qkv + shift.flatten(), 2, *BARE, None, 8), exact) < 0.02


def test_few_queries_at_a_time_change_nothing(monkeypatch):
    qkv, seen = _qkv(), seen_by_others(20, 4, 4, 2, CPU)
    whole = definition.attention(qkv, 3, *BARE, seen, 8)
    monkeypatch.setattr(reference, "MOST_SCORES", 60 * 7)
    torch.testing.assert_close(definition.attention(qkv, 3, *BARE, seen, 8), whole)


def test_numbers_that_are_none_spread_as_defined():
    qkv = _qkv(1, 40, 2, 32)
    qkv[0, 3, 0] = math.inf  # a query of head 0
    qkv[0, 39, 96] = math.nan  # a key of head 1
    y = definition.attention(qkv, 2, *BARE, None, 8)
    assert y[0, 3, :32].isnan().all()
    assert y[0, [0, 39], :32].isfinite().all()
    assert y[..., 32:].isnan().all()


def test_equal_keys_average_the_values_and_no_tokens_give_none():
    qkv = _qkv(1, 30, 2, 32)
    qkv[..., 64:128] = 3.0  # without their mean nothing is left
    mean = qkv[..., 128:].mean(1, keepdim=True).expand(-1, 30, -1)
    torch.testing.assert_close(definition.attention(qkv, 2, *BARE, None, 8), mean)
    for empty in (qkv[:, :0], qkv[:0]):
        assert ops.attention(empty, 2, *BARE, None, 8).shape == (*empty.shape[:2], 64)


def test_values_have_their_gradient():
    qkv = _qkv(1, 12, 2, 32).requires_grad_()
    definition.attention(qkv, 2, *BARE, None, 8).sum().backward()
    torch.testing.assert_close(qkv.grad[..., 128:].sum((0, 1)), torch.full((64,), 12.0))


def test_no_path_of_a_cpu_has_it_and_says_so(attention_backend):
    qkv = _qkv().bfloat16()
    step = Attention(qkv, 3, *BARE, score_bits=8)
    rows = [row for row in registry.report("cpu") if (row.op, row.step) == ("attention", "8-bit queries and keys")]
    assert [row.backend for row in rows if row.chosen] == ["reference"]
    backend = next(each for each in registry._backends["attention"] if each.name == attention_backend)
    assert backend.name == "reference" or backend.accepts(step) == "queries and keys in 16 bits only"
    assert torch.equal(ops.attention(qkv, 3, *BARE, None, 8), reference.attention(step))


@pytest.mark.parametrize("bits", [7, 4, 0, 32])
def test_other_widths_are_refused(bits):
    with pytest.raises(InputError, match=f"score_bits is 16 or 8, not {bits}"):
        ops.attention(_qkv(), 3, *BARE, None, bits)
