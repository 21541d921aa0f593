"""The closed form of DSFQ against its formulas in float64 (QuantVGGT, section 3.2)."""

import pytest
import scipy.linalg
import torch
from torch import nn

from quantvggt.calibrate.methods import make_method
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.nn.quant_linear import QuantLinear

K, N = 64, 48


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(K, N)
    layer.weight.data[:, 3] *= 20  # an outlier channel
    return layer


def samples() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 30, K, generator=generator) * (1 + index) for index in range(3)]


def test_smoothing_is_the_published_formula(linear: nn.Linear) -> None:
    solver = make_method("dsfq", {"alpha": 0.3}, seed=5).start("site", linear)
    for x in samples():
        solver.observe(x)
    layer = solver.solve(Scheme.preset("w8a8"))

    assert layer.rotation_signs is not None
    assert layer.input_smooth is not None
    rotation = torch.diag(layer.rotation_signs.double()) @ torch.from_numpy(scipy.linalg.hadamard(K) / K**0.5)
    peak = None
    for x in samples():
        now = (x.flatten(0, 1).double() @ rotation).abs().amax(0)
        peak = now if peak is None else 0.95 * peak + 0.05 * now
    assert peak is not None
    expected = peak**0.3 / (linear.weight.detach().double() @ rotation).abs().amax(0) ** 0.7
    torch.testing.assert_close(layer.input_smooth.double(), expected, rtol=1e-5, atol=0)


def test_scale_then_rotate_takes_its_factor_from_the_unrotated_distribution(linear: nn.Linear) -> None:
    solver = make_method("dsfq", {"order": "scale-rotate", "momentum": 0.5}, seed=5).start("site", linear)
    for x in samples():
        solver.observe(x)
    layer = solver.solve(Scheme.preset("w8a8"))
    peaks = [x.flatten(0, 1).double().abs().amax(0) for x in samples()]
    peak = ((peaks[0] + peaks[1]) / 2 + peaks[2]) / 2
    expected = (peak / linear.weight.detach().double().abs().amax(0)).sqrt()
    presmooth = layer.get_buffer("input_presmooth")
    torch.testing.assert_close(presmooth.double(), expected, rtol=1e-5, atol=0)
    assert layer.input_smooth is None
    assert layer.rotation_signs is not None
    x = samples()[0]
    assert ((layer(x) - linear(x)).norm() / linear(x).norm()).item() < 0.02


@pytest.mark.parametrize(
    ("settings", "buffers"),
    [
        ({"smoothing": False}, {"rotation_signs"}),
        ({"rotation": False}, {"input_smooth"}),
        ({"rotation": False, "order": "scale-rotate"}, {"input_smooth"}),
        ({"rotation": False, "smoothing": False}, set()),
    ],
)
def test_parts_can_be_left_out(linear: nn.Linear, settings: dict[str, object], buffers: set[str]) -> None:
    solver = make_method("dsfq", settings).start("site", linear)
    solver.observe(samples()[0])
    layer = solver.solve(Scheme.preset("w4a4"))
    assert set(layer.state_dict()) == {"weight_packed", "weight_scale", "bias"} | buffers
    if not buffers:
        assert torch.equal(layer.weight_packed, QuantLinear.from_float(linear, Scheme.preset("w4a4")).weight_packed)


def test_eight_bits_reproduce_the_layer_and_four_bits_beat_rtn(linear: nn.Linear) -> None:
    x = samples()[0]
    truth = linear(x)
    solver = make_method("dsfq").start("site", linear)
    for sample in samples():
        solver.observe(sample)

    def error(layer: nn.Module) -> float:
        return ((layer(x) - truth).norm() / truth.norm()).item()

    assert error(solver.solve(Scheme.preset("w8a8"))) < 0.02
    four = Scheme.preset("w4a4")
    assert error(solver.solve(four)) < 0.8 * error(QuantLinear.from_float(linear, four))


def test_every_site_has_its_own_signs_and_the_seed_decides(linear: nn.Linear) -> None:
    def signs(site: str, seed: int) -> list[int]:
        solver = make_method("dsfq", seed=seed).start(site, linear)
        solver.observe(samples()[0])
        found = solver.solve(Scheme.preset("w4a4")).rotation_signs
        assert found is not None
        return found.tolist()

    assert signs("a", 0) == signs("a", 0)
    assert signs("a", 0) != signs("b", 0)
    assert signs("a", 0) != signs("a", 1)


def test_unknown_names_and_settings_are_named() -> None:
    with pytest.raises(InputError, match="unknown method 'magic'; use one of: best, rtn, dsfq"):
        make_method("magic")
    with pytest.raises(InputError, match="dsfq has no setting beta; it has: alpha, momentum, rotation"):
        make_method("dsfq", {"beta": 1})
    with pytest.raises(InputError, match="rtn has no setting alpha; it has: none"):
        make_method("rtn", {"alpha": 1})
    with pytest.raises(InputError, match="alpha must lie between 0 and 1"):
        make_method("dsfq", {"alpha": 1.5})
    with pytest.raises(InputError, match=r"method dsfq: a setting .* \(alpha is float, not 'high'\)"):
        make_method("dsfq", {"alpha": "high"})
    with pytest.raises(InputError, match=r"epochs is int, not 1\.5"):
        make_method("dsfq-learned", {"epochs": 1.5})
    with pytest.raises(InputError, match="rotation is bool, not 0"):
        make_method("dsfq", {"rotation": 0})
    assert make_method("dsfq", {"alpha": 1}) == make_method("dsfq", {"alpha": 1.0})
    with pytest.raises(InputError, match="order must be one of rotate-scale, scale-rotate, got 'sideways'"):
        make_method("dsfq", {"order": "sideways"})
