"""RepQ-ViT's and DopQ-ViT's reparameterization against its definition, and why the two are one here."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantvggt.calibrate.methods import make_method
from quantvggt.calibrate.methods.base import SiteMethod
from quantvggt.calibrate.methods.repqvit import percentile_scale
from quantvggt.core.scheme import Scheme
from quantvggt.nn.quant_linear import QuantLinear

K, N = 48, 20


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(K, N)


def clips() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    spread = torch.linspace(-3, 3, K).exp()
    return [torch.randn(2, 500, K, generator=generator) * spread for _ in range(3)]


def solved(linear: nn.Linear, method: str, site: str = "x.attn.qkv", scheme: str = "w4a4") -> QuantLinear:
    made = make_method(method)
    assert isinstance(made, SiteMethod)
    solver = made.start(site, linear)
    for x in clips():
        solver.observe(x)
    return solver.solve(Scheme.parse(scheme))


def best_scale(values: np.ndarray, bits: int) -> float:
    top = 2 ** (bits - 1) - 1

    def loss(scale: float) -> float:
        return float(((np.clip(np.rint(values / scale), -top - 1, top) * scale - values) ** 2).sum())

    return min((np.quantile(np.abs(values), p) / top for p in (0.999, 0.9999, 0.99999)), key=loss)


def test_scales_are_the_best_of_three_percentiles() -> None:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(6, 4000, generator=generator)
    rows[:2, 7] *= 60
    for bits in (3, 8):
        found = percentile_scale(rows, bits)[:, 0].tolist()
        assert found == pytest.approx([best_scale(row, bits) for row in rows.double().numpy()], rel=1e-4)
    assert percentile_scale(torch.zeros(1, 9), 4).item() > 0


@pytest.mark.parametrize("method", ["repqvit", "dopqvit"])
def test_channel_scales_become_one(linear: nn.Linear, method: str) -> None:
    layer = solved(linear, method)
    x = torch.cat(clips()).flatten(0, 1).double().numpy()
    scales = np.array([best_scale(x[:, j], 4) for j in range(K)])
    closest = min(scales, key=lambda s: (np.abs(scales - s).mean().round(9), s))
    middle = scales.mean() if method == "repqvit" else closest
    assert layer.input_smooth is not None
    assert layer.input_smooth.tolist() == pytest.approx(list(scales / middle), rel=1e-4)


def test_the_layers_scale_cancels_so_both_give_the_same(linear: nn.Linear) -> None:
    repq, dopq, x = solved(linear, "repqvit"), solved(linear, "dopqvit"), clips()[0]
    assert repq.input_smooth is not None
    assert dopq.input_smooth is not None
    ratio = repq.input_smooth / dopq.input_smooth
    assert ratio[0] < 0.9
    torch.testing.assert_close(ratio, ratio[:1].expand(K))
    assert (repq.integer_weight() == dopq.integer_weight()).float().mean() > 0.99
    assert (repq.quantize_input(x)[0] == dopq.quantize_input(x)[0]).float().mean() > 0.999


def test_only_layers_behind_a_norm_are_reparameterized_and_it_helps_them(linear: nn.Linear) -> None:
    assert solved(linear, "repqvit", "x.attn.proj").input_smooth is None
    x = clips()[0]

    def error(layer: nn.Module) -> float:
        return float((layer(x) - linear(x)).detach().norm())

    few = "w8a4"  # where activations are the difficulty
    assert error(solved(linear, "repqvit", scheme=few)) < 0.85 * error(
        QuantLinear.from_float(linear, Scheme.parse(few))
    )


def test_many_tokens_are_thinned_evenly(linear: nn.Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantvggt.calibrate.methods.repqvit.MOST_ROWS", 128)
    made = make_method("repqvit")
    assert isinstance(made, SiteMethod)
    solver = made.start("x.attn.qkv", linear)
    x = torch.arange(640.0)[:, None].expand(640, K)
    for clip in x.split(64):
        solver.observe(clip)
    assert solver.rows[:, 0].tolist() == list(range(0, 640, 8))  # type: ignore[attr-defined]
