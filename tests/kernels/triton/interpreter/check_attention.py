from contextlib import nullcontext

import pytest
import torch

import definition
from quantvggt.kernels.ops import attention
from quantvggt.nn.thinned import seen_by_others

CUT = 2.5
"""Triton's interpreter cuts bfloat16 off where GPUs round it: twice the error, see test_compile.py."""


def call(generator, batch, frames, tokens, heads, d, dtype, normed=True, turned=True, biased=True):
    norms = [torch.rand(d, generator=generator) + 0.5 if normed else None for _ in range(4)]
    if not biased:
        norms[1] = norms[3] = None
    angles = torch.randn(tokens, d, generator=generator)
    return {
        "qkv": torch.randn(batch, frames * tokens, 3 * heads * d, generator=generator).to(dtype),
        "num_heads": heads,
        **dict(zip(("q_weight", "q_bias", "k_weight", "k_bias"), norms, strict=True)),
        "eps": 1e-5,
        "cosine": angles.cos() if turned else None,
        "sine": angles.sin() if turned else None,
    }


def check(args):
    got, rounded = attention(**args), definition.attention(**args)
    doubles = {
        name: value.double() if isinstance(value, torch.Tensor) and name not in ("cosine", "sine", "seen") else value
        for name, value in args.items()
    }
    truth = definition.attention(**doubles)
    lost, allowed = ((y.double() - truth).norm() for y in (got, rounded))
    assert (got.dtype, got.shape) == (args["qkv"].dtype, truth.shape)
    assert lost <= CUT * allowed + 1e-4 * truth.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("batch", "frames", "tokens", "heads", "d"),
    [(2, 1, 41, 3, 64), (1, 3, 17, 2, 64), (1, 1, 1, 1, 64), (1, 2, 20, 4, 16), (1, 1, 5, 2, 48), (1, 1, 9, 1, 128)],
)
def test_attention(generator, batch, frames, tokens, heads, d, dtype):
    check(call(generator, batch, frames, tokens, heads, d, dtype))


@pytest.mark.parametrize(
    ("normed", "turned", "biased"),
    [(False, False, True), (True, False, True), (False, True, True), (True, True, False)],
)
def test_norms_biases_and_rotation_are_optional(generator, normed, turned, biased):
    check(call(generator, 1, 2, 13, 2, 64, torch.float16, normed, turned, biased))


def test_norms_of_the_model_s_type(generator):
    args = call(generator, 1, 2, 13, 2, 64, torch.bfloat16)
    check({name: value.bfloat16() if name[1:] in ("_weight", "_bias") else value for name, value in args.items()})


def test_thinned_out(generator):
    args = call(generator, 2, 3, 17, 2, 64, torch.bfloat16)
    check(args | {"seen": seen_by_others(17, 5, 4, 2, torch.device("cpu"))})


def test_thinned_out_goes_where_a_mask_may(generator, monkeypatch):
    """Each of PyTorch's that may be taken has to take one; on a GPU flash attention has none."""
    from quantvggt.kernels.triton import attention as module

    asked = []

    def record(backends, set_priority):
        asked.append(backends)
        return nullcontext()

    monkeypatch.setattr(module, "sdpa_kernel", record)
    args = call(generator, 1, 2, 17, 1, 64, torch.bfloat16)
    seen = seen_by_others(17, 5, 4, 2, torch.device("cpu"))
    attention(**args)
    attention(**args, seen=seen)
    attention(**call(generator, 1, 1, 17, 1, 64, torch.bfloat16), seen=seen)  # one frame: nothing is thinned out
    assert asked == [module.PRIORITY, module.MASKED, module.PRIORITY]
    assert module.SDPBackend.FLASH_ATTENTION not in module.MASKED
    assert module.MASKED[0] is module.SDPBackend.EFFICIENT_ATTENTION


def test_flash_attention_that_somebody_activated_comes_first(monkeypatch):
    from quantvggt.kernels.triton.attention import PRIORITY, SDPBackend, priority

    assert priority() == PRIORITY
    monkeypatch.setattr(torch.nn.attention, "current_flash_attention_impl", lambda: "FA3", raising=False)
    assert priority()[0] is SDPBackend.FLASH_ATTENTION
    assert sorted(map(str, priority())) == sorted(map(str, PRIORITY))
    monkeypatch.delattr(torch.nn.attention, "current_flash_attention_impl")
    assert priority() == PRIORITY
