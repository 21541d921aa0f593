"""What thinned attention knows of `seen` without asking the GPU for it."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from quantvggt.kernels import reference
from quantvggt.kernels.contract import Attention
from quantvggt.kernels.shown import moved, shown
from quantvggt.nn.thinned import seen_by_others

CPU = torch.device("cpu")


class NoWaiting(TorchDispatchMode):
    """A GPU's results whose shapes depend on numbers are waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "nonzero" not in str(func)
        assert "local_scalar" not in str(func)
        return func(*args, **(kwargs or {}))


def step(seen, dtype=torch.bfloat16, bits=16):
    qkv = torch.randn(1, 3 * len(seen), 3 * 2 * 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    return Attention(qkv, 2, None, None, None, None, 0.0, None, None, seen, bits)


def test_places_and_weights():
    places, weights = shown(torch.tensor([-math.inf, 0.5, 0, -math.inf, -2]))
    assert places.tolist() == [1, 2, 4]
    assert weights.tolist() == [0.5, 0, -2]
    assert shown(torch.full((3,), -math.inf)).places.tolist() == []


def test_what_was_written_into_is_asked_again():
    seen = torch.zeros(4)
    assert shown(seen) is shown(seen)
    seen[1] = -math.inf
    assert shown(seen).places.tolist() == [0, 2, 3]
    with torch.inference_mode():
        other = torch.zeros(2)
        assert shown(other).places.tolist() == [0, 1]
        other[0] = -math.inf
        assert shown(other).places.tolist() == [1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_never_waits_for_it(dtype):
    seen = seen_by_others(17, 5, 4, 2, CPU)
    expected = reference.attention(step(seen.clone(), dtype))
    with NoWaiting():
        assert torch.equal(reference.attention(step(seen, dtype)), expected)
        shown(seen)
    with pytest.raises(AssertionError), NoWaiting():
        reference.attention(step(seen.clone(), dtype))


def test_attention_with_8_bits_never_waits_for_it():
    attention8 = pytest.importorskip("quantvggt.kernels.triton.attention8")
    seen = seen_by_others(17, 5, 4, 2, CPU)
    thinned = step(seen, bits=8)
    keys, scales = torch.zeros(1, 2, 51, 32, dtype=torch.int8), torch.ones(1, 2, 51)
    with NoWaiting():
        others = attention8.shared(thinned, keys, scales)
    assert others.kept == 5 + 4
    assert others.keys.shape == (1, 2, 3 * 9, 32)
    torch.testing.assert_close(others.weights[5:9], torch.full((4,), math.log2(3.0)))


def test_it_is_known_where_nobody_could_be_asked():
    """As on a GPU whose numbers nobody may wait for."""
    there = moved(torch.tensor([0.0, -math.inf, 1.0]), torch.device("meta"))
    assert shown(there).places.shape == (2,)
    assert {part.device.type for part in shown(there)} == {"meta"}


def test_gradients_pass_after_a_pass_without_any():
    seen_by_others.cache_clear()
    with torch.inference_mode():
        seen = seen_by_others(17, 5, 4, 2, CPU)
        reference.attention(step(seen))
    trained = step(seen, torch.float32)
    trained.qkv.requires_grad_()
    reference.attention(trained).sum().backward()
    assert trained.qkv.grad.isfinite().all()
    weights = torch.zeros(17, requires_grad=True)
    for _ in range(2):
        reference.attention(step(weights, torch.float32)).square().sum().backward()
    assert weights.grad.abs().sum() > 0
