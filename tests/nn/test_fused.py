"""A quantized block takes its norms, GELU, gains and residuals into the kernels, and nobody notices."""

import pytest
import torch

from quantvggt.core.rotation import random_signs
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.nn.block import Block
from quantvggt.nn.fused import LayerScale, linear_steps
from quantvggt.nn.quant_linear import QuantLinear, mark_frames

DIM, TOKENS = 192, 9
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


def _block(scheme, dtype=torch.float32):
    torch.manual_seed(0)
    block = Block(DIM, 3, qk_norm=True)
    for name, parameter in block.named_parameters():
        parameter.data.add_(torch.randn_like(parameter) * (0.3 if "norm" in name or "gamma" in name else 0.03))
    for layer in LAYERS:
        linear = block.get_submodule(layer)
        transform = Transform(signs=random_signs(linear.in_features, 1))
        block.set_submodule(layer, QuantLinear.from_float(linear, Scheme.parse(scheme), transform))
    mark_frames(block, TOKENS, 5)
    return block.to(dtype)


def _tokens(dtype=torch.float32):
    return torch.randn(2, TOKENS, DIM, generator=torch.Generator().manual_seed(1)).to(dtype)


def _step_by_step(block, x):
    """The block with a hook on every layer, so that each module runs by itself."""
    handles = [block.get_submodule(layer).register_forward_hook(lambda *_: None) for layer in LAYERS]
    with torch.no_grad():
        y = block(x)
    for handle in handles:
        handle.remove()
    return y


SCHEMES = ["w8a8", "w4a4", "w4a4-s8", "w4a4-asym"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_block_gives_the_same_within_rounding(scheme):
    block, x = _block(scheme), _tokens()
    with torch.no_grad():
        fused = block(x)
    plain = _step_by_step(block, x)
    # Now and then a value lands on the other side of a rounding; a step that is wrong makes a difference near 1.
    assert (fused - plain).norm() < 5e-3 * (plain - x).norm()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_block_in_bfloat16_is_no_farther_from_float32(scheme):
    block, x = _block(scheme, torch.bfloat16), _tokens(torch.bfloat16)
    with torch.no_grad():
        fused = block(x)
    plain = _step_by_step(block, x)
    exact = _step_by_step(block.float(), x.float())
    assert fused.dtype == plain.dtype == torch.bfloat16
    size = (exact - x).norm()
    assert 0 < (fused - exact).norm() < 1.1 * (plain - exact).norm() < 0.25 * size


@pytest.mark.parametrize("scheme", ["w8a8-tensor", "w4a16"])
def test_what_takes_no_steps_goes_step_by_step(scheme):
    block, x = _block(scheme), _tokens()
    assert not block.attn.qkv.takes_steps
    with torch.no_grad():
        assert torch.equal(block(x), _step_by_step(block, x))


def test_hooks_see_the_normalised_input():
    block, x = _block("w8a8"), _tokens()
    seen = {}
    for layer in ("attn.qkv", "mlp.fc1"):
        block.get_submodule(layer).register_forward_pre_hook(
            lambda _, args, layer=layer: seen.__setitem__(layer, args[0])
        )
    with torch.no_grad():
        block(x)
        assert torch.equal(seen["attn.qkv"], block.norm1(x))
    assert seen["mlp.fc1"].mean(-1).abs().max() < 1
    norms = []
    block = _block("w8a8")
    block.norm1.register_forward_pre_hook(lambda _, args: norms.append(args[0]))
    with torch.no_grad():
        block(x)
    assert torch.equal(norms[0], x)


def test_gradients_reach_what_stands_around_a_float_layer():
    norm, gain = torch.nn.LayerNorm(8), LayerScale(8)
    layer, x = torch.nn.Linear(8, 8), torch.randn(3, 8)
    y = linear_steps(layer, x, norm, True, gain, x)
    torch.testing.assert_close(y, x + gain(torch.nn.functional.gelu(layer(norm(x)))))
    y.sum().backward()
    assert all(p.grad is not None for m in (norm, layer, gain) for p in m.parameters())


def test_autocast_gives_the_dtype_that_single_modules_give():
    block, x = _block("w8a8"), _tokens()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = _step_by_step(block, x)
        with torch.no_grad():
            fused = block(x)
    assert fused.dtype == plain.dtype == torch.float32
    torch.testing.assert_close(fused, plain, rtol=0.05, atol=0.05)


def test_a_quantized_block_compiles_to_one_graph():
    block, x = _block("w4a4-s8"), _tokens()
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(x), block(x))


@torch.no_grad()
def test_a_norm_without_weights_is_not_forgotten():
    torch.manual_seed(0)
    layer, norm = QuantLinear.from_float(torch.nn.Linear(64, 8), Scheme.parse("w8a8")), torch.nn.LayerNorm(64, eps=1e-5)
    bare, x = torch.nn.LayerNorm(64, eps=1e-5, elementwise_affine=False), 3 + torch.randn(5, 64)
    torch.testing.assert_close(linear_steps(layer, x, bare), linear_steps(layer, x, norm), atol=0.02, rtol=0)
