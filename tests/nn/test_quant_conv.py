"""Quantized convolutions against PyTorch's, with the weight that their integers stand for."""

import pytest
import torch
from torch import nn

from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.nn import quant_conv
from quantvggt.nn.quant_conv import QuantConv2d, flat_weight

CONVOLUTIONS = {
    "3x3": lambda: nn.Conv2d(5, 7, 3, padding=1),
    "strided": lambda: nn.Conv2d(5, 7, 3, stride=2, padding=1, bias=False),
    "1x1": lambda: nn.Conv2d(5, 7, 1),
    "enlarging": lambda: nn.ConvTranspose2d(5, 7, 4, stride=4),
}


def _float(name):
    torch.manual_seed(0)
    return CONVOLUTIONS[name]()


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize(("scheme", "steps"), [("w8a16", 127), ("w4a16", 7)])
def test_computes_with_the_weight_rounded_per_output_channel(name, scheme, steps):
    conv = _float(name)
    weight = conv.weight.detach().double()
    out = 1 if isinstance(conv, nn.ConvTranspose2d) else 0
    step = weight.abs().amax([d for d in range(4) if d != out], keepdim=True) / steps
    expected = _float(name).double()
    expected.weight.data = (weight / step).round() * step
    x = torch.randn(2, 5, 6, 9, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        got = QuantConv2d.from_float(conv, Scheme.parse(scheme))(x)
        torch.testing.assert_close(got.double(), expected(x.double()), rtol=1e-5, atol=1e-5)
        assert (got - conv(x)).abs().max() > 1e-5


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_rounded_elsewhere(name):
    conv = _float(name)
    n, k = flat_weight(conv).shape
    q = torch.randint(-8, 8, (n, k), dtype=torch.int8, generator=torch.Generator().manual_seed(2))
    scale = torch.rand(n, 1) + 0.5
    module = QuantConv2d.from_float(conv, Scheme.parse("w4a16"), (q, scale))
    assert torch.equal(module.integer_weight(), q)
    x = torch.randn(1, 5, 4, 4)
    order = (3, 0, 1, 2) if isinstance(conv, nn.ConvTranspose2d) else (0, 3, 1, 2)
    conv.weight.data = (q * scale).view(n, *conv.kernel_size, -1).permute(order)
    torch.testing.assert_close(module(x), conv(x))


def test_types_and_places():
    module = QuantConv2d.from_float(_float("3x3"), Scheme.parse("w8a16")).bfloat16()
    assert module.weight_scale.dtype == torch.float32
    assert module.bias.dtype == torch.bfloat16
    x = torch.randn(1, 5, 4, 4).bfloat16().to(memory_format=torch.channels_last)
    y = module(x)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("held", [True, False])
def test_a_weight_written_into_counts(name, held, monkeypatch):
    monkeypatch.setattr(quant_conv, "HELD", 1 << 20 if held else 0)
    module = QuantConv2d.from_float(_float(name), Scheme.parse("w4a16"))
    x = torch.randn(1, 5, 4, 4)
    bias = None if module.bias is None else module.bias.view(-1, 1, 1)
    first, again = module(x), module(x)
    assert torch.equal(first, again)
    assert module.float_weight(x.dtype).is_contiguous(memory_format=torch.channels_last)
    module.weight_scale.mul_(2)
    doubled = 2 * first if bias is None else 2 * (first - bias) + bias
    torch.testing.assert_close(module(x), doubled)
    module.set_weight(torch.zeros(7, module.in_features, dtype=torch.int8), module.weight_scale.clone())
    torch.testing.assert_close(module(x), torch.zeros_like(first) if bias is None else bias.expand_as(first))


def test_a_weight_kept_in_inference_mode_serves_gradients():
    module, x = QuantConv2d.from_float(_float("3x3"), Scheme.parse("w8a16")), torch.randn(1, 5, 4, 4)
    with torch.inference_mode():
        module(x)
    x.requires_grad_()
    module(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_what_it_does_not_do():
    with pytest.raises(InputError, match="convolutions keep float activations: use w8a16, not w8a8"):
        QuantConv2d.from_float(_float("3x3"), Scheme.preset("w8a8"))
    with pytest.raises(InputError, match="only plain convolutions"):
        QuantConv2d.from_float(nn.Conv2d(4, 4, 3, groups=2), Scheme.parse("w8a16"))
