"""AWQ's two searches against the same searches over real outputs in float64."""

import pytest
import torch
from torch import Tensor, nn

from quantvggt.calibrate.methods import make_method
from quantvggt.calibrate.methods.base import SiteMethod
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.nn.quant_linear import QuantLinear

K, N, BITS = 48, 24, 3


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(K, N)


def clips() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    salient = torch.ones(K).index_fill(0, torch.tensor([4, 9, 30]), 25.0)
    return [torch.randn(2, 100, K, generator=generator) * salient for _ in range(3)]


def solved(linear: nn.Linear, site: str, **settings: object) -> QuantLinear:
    made = make_method("awq", settings)
    assert isinstance(made, SiteMethod)
    solver = made.start(site, linear)
    for x in clips():
        solver.observe(x)
    return solver.solve(Scheme.parse(f"w{BITS}a16"))


def rounded(weight: Tensor, shrink: float = 1.0) -> Tensor:
    top = 2 ** (BITS - 1) - 1
    scale = shrink * weight.abs().amax(1, keepdim=True) / top
    return (weight / scale).round().clamp(-top - 1, top) * scale


def test_the_exponent_and_the_ranges_are_those_with_the_least_output_error(linear: nn.Linear) -> None:
    x, weight = torch.cat(clips()).flatten(0, 1).double(), linear.weight.detach().double()
    errors = {}
    for step in range(20):
        s = x.abs().mean(0) ** (step / 20)
        s = s / (s.max() * s.min()).sqrt()
        errors[step] = ((x / s) @ rounded(weight * s).t() - x @ weight.t()).square().sum()
    best = min(errors, key=lambda step: float(errors[step]))
    assert 0 < best < 19
    s = x.abs().mean(0) ** (best / 20)
    s = s / (s.max() * s.min()).sqrt()
    plain = solved(linear, "x.mlp.fc1", clip=False)
    assert plain.input_smooth is not None
    torch.testing.assert_close(plain.input_smooth.double(), s, rtol=1e-4, atol=0)
    torch.testing.assert_close(plain.dequantized_weight().double(), rounded(weight * s), rtol=1e-4, atol=1e-6)

    shrinks = [1 - 0.05 * step for step in range(10)]
    outputs = torch.stack([(x / s) @ rounded(weight * s, f).t() for f in shrinks])
    chosen = (outputs - x @ weight.t()).square().sum(1).argmin(0)
    factors = solved(linear, "x.mlp.fc1").weight_scale / plain.weight_scale
    assert factors[:, 0].tolist() == pytest.approx([shrinks[i] for i in chosen], rel=1e-4)
    assert factors.min() < 0.99


def test_it_beats_rounding_to_nearest(linear: nn.Linear) -> None:
    x = clips()[0]

    def error(layer: nn.Module) -> float:
        return float((layer(x) - linear(x)).detach().norm())

    assert error(solved(linear, "x.mlp.fc1")) < 0.6 * error(QuantLinear.from_float(linear, Scheme.parse(f"w{BITS}a16")))


def test_ranges_of_queries_and_keys_do_not_shrink(linear: nn.Linear) -> None:
    factors = solved(linear, "x.attn.qkv").weight_scale / solved(linear, "x.attn.qkv", clip=False).weight_scale
    assert (factors[: N * 2 // 3] == 1).all()
    assert factors[N * 2 // 3 :].min() < 1


def test_wrong_settings_are_named() -> None:
    with pytest.raises(InputError, match="awq setting grid must be 1 or more, got 0"):
        make_method("awq", {"grid": 0})
