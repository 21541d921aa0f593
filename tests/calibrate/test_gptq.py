"""GPTQ and QuaRot as methods: what they look at, and what becomes of it."""

from collections import defaultdict

import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from quantvggt.calibrate.gptq_rounding import gptq_round
from quantvggt.calibrate.methods import make_method
from quantvggt.calibrate.methods.base import SiteMethod
from quantvggt.calibrate.methods.gptq import GPTQSolver
from quantvggt.calibrate.pipeline import quantize
from quantvggt.core.errors import InputError
from quantvggt.core.rounding import mse_scale, nearest_round
from quantvggt.core.scheme import Scheme
from quantvggt.models.sites import quantizable_sites
from quantvggt.nn.quant_linear import QuantLinear
from tiny import tiny_clip, tiny_model

K, N = 64, 24


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(K, N)


def clips() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(K, K, generator=generator)
    return [torch.randn(2, 60, K, generator=generator) @ mix for _ in range(3)]


def solved(linear: nn.Linear, method: str, scheme: str, **settings: object) -> QuantLinear:
    made = make_method(method, settings, seed=3)
    assert isinstance(made, SiteMethod)
    solver = made.start("site", linear)
    for x in clips():
        solver.observe(x)
    return solver.solve(Scheme.parse(scheme))


def test_gptq_rounds_with_the_moments_of_all_clips(linear: nn.Linear) -> None:
    x = torch.cat(clips()).flatten(0, 1)
    layer = solved(linear, "gptq", "w3a16")
    q, scale = gptq_round(linear.weight.detach(), x.double().t() @ x.double(), 3, act_order=True)
    assert layer.integer_weight().tolist() == q.tolist()
    assert layer.weight_scale.tolist() == scale.tolist()

    def error(other: nn.Module) -> float:
        return float((other(x) - linear(x)).detach().norm())

    assert error(layer) < 0.75 * error(QuantLinear.from_float(linear, Scheme.parse("w3a16")))


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
def test_quarot_is_a_clipped_rotation_with_searched_scales(linear: nn.Linear, rounding: str) -> None:
    layer = solved(linear, "quarot", "w4a4", rounding=rounding)
    assert layer.input_clip is not None
    assert layer.input_clip.tolist() == pytest.approx([0.9, 0.9])
    assert layer.rotation_signs is not None
    rotation = torch.diag(layer.rotation_signs.double()) @ torch.from_numpy(scipy.linalg.hadamard(K) / K**0.5)
    weight, x = linear.weight.detach().double() @ rotation, torch.cat(clips()).flatten(0, 1).double() @ rotation
    scale = mse_scale(weight, 4)
    torch.testing.assert_close(layer.weight_scale, scale)
    q = nearest_round(weight, 4, scale) if rounding == "nearest" else gptq_round(weight, x.t() @ x, 4, scale)[0]
    assert (layer.integer_weight() == q).float().mean() > 0.99  # float32 and float64 may part at a tie
    assert solved(linear, "quarot", "w4a16").input_clip is None
    assert solved(linear, "quarot", "w8a8").input_clip is None
    assert solved(linear, "quarot", "w8a8", clip=0.8).input_clip is not None


@pytest.mark.parametrize("method", ["gptq", "quarot"])
def test_every_layer_is_solved_on_what_the_quantized_model_really_gives_it(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calibration = tiny_model(), [tiny_clip("a"), tiny_clip("b")]
    for parameter in model.parameters():  # what isn't quantized gets float16 values in the end; let it have them now
        parameter.data = parameter.data.half().float()
    seen: defaultdict[int, list[Tensor]] = defaultdict(list)

    def observe(self: GPTQSolver, x: Tensor) -> None:
        seen[id(self.linear)].append(x.clone())
        originals[0](self, x)

    def solve(self: GPTQSolver, scheme: Scheme) -> QuantLinear:
        order.append(self.linear)
        return originals[1](self, scheme)

    originals, order = (GPTQSolver.observe, GPTQSolver.solve), list[nn.Linear]()
    monkeypatch.setattr(GPTQSolver, "observe", observe)
    monkeypatch.setattr(GPTQSolver, "solve", solve)
    small = quantize(model, "w4a4", method, calibration, progress=False)

    real: defaultdict[str, list[Tensor]] = defaultdict(list)
    sites = quantizable_sites(small)
    for name, site in sites.items():
        site.register_forward_pre_hook(lambda module, inputs, name=name: real[name].append(inputs[0].clone()))
    with torch.inference_mode():
        for clip in calibration:
            small(clip.images)
    assert len(order) == len(sites)
    for linear, name in zip(order, sites, strict=True):
        assert len(seen[id(linear)]) == len(calibration)
        for expected, found in zip(real[name], seen[id(linear)], strict=True):
            torch.testing.assert_close(found.flatten(), expected.flatten())


def test_wrong_settings_are_named() -> None:
    for method, name, value in (("gptq", "damping", 0), ("quarot", "clip", 1.2), ("quarot", "damping", -1)):
        with pytest.raises(InputError, match=f"{method} setting {name} must lie above 0 and at most at 1"):
            make_method(method, {name: value})
    with pytest.raises(InputError, match="rounding must be one of gptq, nearest"):
        make_method("quarot", {"rounding": "up"})
