"""Layers of the scheme w8a8-fp8."""

import pytest
import torch
from torch import nn

from quantvggt.core.branch import Branch
from quantvggt.core.errors import InputError
from quantvggt.core.float8 import FLOAT8, quantize_float8
from quantvggt.core.rotation import random_signs
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.nn.fused import LayerScale, linear_steps
from quantvggt.nn.quant_conv import QuantConv2d
from quantvggt.nn.quant_linear import QuantLinear

SCHEME = Scheme.parse("w8a8-fp8")
K, N = 64, 48


def _linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(K, N)


def _tokens() -> torch.Tensor:
    return torch.randn(2, 9, K, generator=torch.Generator().manual_seed(1))


TRANSFORMS = {
    "plain": Transform(),
    "smooth": Transform(smooth=torch.linspace(0.5, 2, K)),
    "all": Transform(
        shift=torch.linspace(-1, 1, K),
        presmooth=torch.linspace(2, 0.5, K),
        signs=random_signs(K, 0),
        smooth=torch.linspace(0.5, 2, K),
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_output_is_the_product_of_the_rounded_factors(name) -> None:
    transform, linear, x = TRANSFORMS[name], _linear(), _tokens()
    layer = QuantLinear.from_float(linear, SCHEME, transform)
    assert (layer.weight.dtype, layer.weight_scale.shape) == (FLOAT8, (N, 1))
    with torch.no_grad():
        rounded = [quantize_float8(each) for each in (transform.apply(x), transform.apply_to_weight(linear.weight))]
        a, w = (q.double() * scale for q, scale in rounded)
        exact = a @ w.t() + layer.bias.double()
        y = layer(x)
        assert torch.equal(layer.rounded_input(x), a.float())
        assert torch.equal(layer.dequantized_weight(), w.float())
        torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-5)
        lost = (y - linear(x)).norm() / linear(x).norm()
    assert 0.01 < lost < 0.06  # each factor's 3 bits of fraction leave about 2.5%


def test_moving_to_another_dtype_moves_the_bias_only() -> None:
    layer = QuantLinear.from_float(_linear(), SCHEME, TRANSFORMS["all"])
    before = {name: value.clone() for name, value in layer.named_buffers()}
    layer.to(torch.bfloat16).half().float()
    for name, value in layer.named_buffers():
        assert value.dtype == before[name].dtype, name
        assert name == "bias" or torch.equal(value.view(torch.uint8), before[name].view(torch.uint8)), name
    assert layer.bfloat16().bias.dtype == torch.bfloat16
    assert layer(_tokens().bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(_tokens()).dtype == torch.bfloat16


def test_what_stands_around_it_runs_step_by_step() -> None:
    layer, norm, gain, x = QuantLinear.from_float(_linear(), SCHEME), nn.LayerNorm(K), LayerScale(N), _tokens()
    assert not layer.takes_steps
    residual = torch.randn(2, 9, N, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, K))
        together = linear_steps(layer, x, norm, True, gain, residual)
        assert torch.equal(together, residual + gain(nn.functional.gelu(layer(norm(x)))))


def test_an_empty_layer_and_its_size() -> None:
    layer = QuantLinear.empty(_linear(), SCHEME, {"input_smooth": (K,)}, "meta")
    assert (layer.weight.dtype, layer.weight.shape) == (FLOAT8, (N, K))
    assert layer.checkpoint_bytes == N * K + 4 * N + 4 * K


def test_what_float8_has_no_use_for_is_refused() -> None:
    linear = _linear()
    branch, _ = Branch.split(torch.eye(K)[:, :16], linear.weight.detach())
    for options, words in (
        ({"input_clip": torch.ones(2)}, "keeps activations in float8, so there is no input clip"),
        ({"weight_clip": torch.ones(N, 2)}, "has no weight clip"),
        ({"branch": branch}, "a low-rank branch needs dynamic ranges per token, of integers"),
    ):
        with pytest.raises(InputError, match=words):
            QuantLinear.from_float(linear, SCHEME, **options)
    with pytest.raises(InputError, match="convolutions keep float activations: use w8a16, not w8a8-fp8"):
        QuantConv2d.from_float(nn.Conv2d(16, 16, 3), SCHEME)
