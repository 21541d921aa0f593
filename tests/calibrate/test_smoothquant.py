"""SmoothQuant's factors against its formula in float64."""

import pytest
import torch
from torch import nn

from quantvggt.calibrate.methods import make_method
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.nn.quant_linear import QuantLinear

K, N = 48, 32


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(K, N)


def clips() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    outliers = torch.ones(K).index_fill(0, torch.tensor([5, 17]), 40.0)
    return [torch.randn(2, 30, K, generator=generator) * outliers * (3 - index) for index in range(3)]


def solved(linear: nn.Linear, site: str, scheme: str, **settings: object) -> QuantLinear:
    solver = make_method("smoothquant", settings).start(site, linear)  # type: ignore[attr-defined]
    for x in clips():
        solver.observe(x)
    layer = solver.solve(Scheme.preset(scheme))
    assert isinstance(layer, QuantLinear)
    return layer


@pytest.mark.parametrize("alpha", [0.5, 0.8])
def test_factors_are_the_papers(linear: nn.Linear, alpha: float) -> None:
    found = solved(linear, "aggregator.frame_blocks.0.attn.qkv", "w8a8", alpha=alpha).input_smooth
    assert found is not None
    peak = torch.cat(clips()).double().abs().amax((0, 1))
    expected = peak**alpha / linear.weight.detach().double().abs().amax(0) ** (1 - alpha)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_outlier_channels_hurt_less(linear: nn.Linear) -> None:
    x = clips()[0]

    def error(layer: nn.Module) -> float:
        return float(((layer(x) - linear(x)).norm() / linear(x).norm()).detach())

    assert error(solved(linear, "a.mlp.fc1", "w8a8")) < 0.5 * error(
        QuantLinear.from_float(linear, Scheme.preset("w8a8"))
    )


def test_as_published_only_layers_behind_a_norm_are_smoothed(linear: nn.Linear) -> None:
    smooths = {site: solved(linear, f"x.{site}", "w4a4").input_smooth for site in ("attn.qkv", "attn.proj", "mlp.fc2")}
    assert [value is not None for value in smooths.values()] == [True, False, False]
    assert solved(linear, "x.mlp.fc2", "w4a4", sites="all").input_smooth is not None


def test_wrong_settings_are_named() -> None:
    with pytest.raises(InputError, match="smoothquant setting alpha must lie between 0 and 1"):
        make_method("smoothquant", {"alpha": 2})
    with pytest.raises(InputError, match="sites must be one of norm, all"):
        make_method("smoothquant", {"sites": "some"})
