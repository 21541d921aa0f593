"""BRECQ and the learned rounding below it."""

import pytest
import torch

from one_layer import K, low_rank_task, output_error
from quantvggt.calibrate.importance import Importance
from quantvggt.calibrate.methods import make_method
from quantvggt.calibrate.methods.adaround import AdaRound, InputRange, penalty
from quantvggt.calibrate.methods.base import BlockTask
from quantvggt.calibrate.methods.brecq import BRECQ
from quantvggt.calibrate.pipeline import quantize
from quantvggt.core.affine import quantize_rows
from quantvggt.core.errors import InputError
from quantvggt.nn.quant_linear import QuantLinear
from tiny import tiny_clip, tiny_model


def weight() -> torch.Tensor:
    return torch.randn(6, 32, generator=torch.Generator().manual_seed(0))


def test_learned_rounding_begins_at_the_weight_and_goes_up_or_down_by_one() -> None:
    w = weight()
    rounding = AdaRound(w, 4)
    steps = w / rounding.scale
    inside = (steps > -8) & (steps < 7)
    torch.testing.assert_close(rounding(w, 4)[inside], w[inside], rtol=1e-4, atol=1e-5)

    q, scale = rounding.integers(w, 4)
    assert torch.equal(q.float(), steps.round().clamp(-8, 7))
    rounding.v.data.fill_(-9)
    down = rounding.integers(w, 4)[0].float()
    torch.testing.assert_close(rounding(w, 4), down * scale)
    rounding.v.data.fill_(9)
    up = rounding.integers(w, 4)[0].float()
    torch.testing.assert_close(rounding(w, 4), up * scale)
    assert torch.equal(up, (steps.floor() + 1).clamp(-8, 7))
    assert torch.equal(down, steps.floor().clamp(-8, 7))
    assert rounding.undecided(2.0) == 0


def test_penalty_is_the_published_formula() -> None:
    rounding = AdaRound(weight(), 4)
    h = ((1 / (1 + torch.exp(-rounding.v.double()))) * 1.2 - 0.1).clamp(0, 1)
    for progress, beta in ((0.2, 20), (0.6, 11), (1.0, 2)):
        expected = 0.3 * (1 - (2 * h - 1).abs() ** beta).sum()
        assert penalty([rounding], 0.3, progress).item() == pytest.approx(expected.item(), rel=1e-4)
    assert penalty([rounding], 0.3, 0.19) == 0


def test_scales_and_ranges_have_the_least_squared_error() -> None:
    w = torch.randn(6, 256, generator=torch.Generator().manual_seed(0))
    w[0, 0] = 8.0  # worth cutting off
    scale = AdaRound(w, 4).scale

    def error(candidate: torch.Tensor) -> torch.Tensor:
        return ((w / candidate).round().clamp(-8, 7) * candidate - w).square().sum(-1)

    whole = w.abs().amax(-1, keepdim=True) / 7
    brute = torch.stack([error(whole * share) for share in torch.linspace(0.31, 1, 500)]).amin(0)
    assert (error(scale) <= 1.05 * brute).all()
    assert scale[0] < 0.9 * whole[0]

    x = torch.randn(50, 200, generator=torch.Generator().manual_seed(1))
    ranges = InputRange(3)
    ranges.observe(x[:20])
    ranges.observe(x[20:])
    errors = {}
    for share in (0.3, 0.5, 0.6, 0.7, 0.8, 1.0):
        q, row_scale = quantize_rows(x, 3, torch.full((2,), share))
        errors[share] = (q * row_scale - x).square().sum().item()
    found = ranges.clip_logit().sigmoid()
    q, row_scale = quantize_rows(x, 3, found)
    assert (q * row_scale - x).square().sum().item() <= min(errors.values())


def test_learned_rounding_ends_decided_and_beats_nearest() -> None:
    task, method = low_rank_task("w3a16"), BRECQ(epochs=60, learning_rate=0.1)
    roundings: list[AdaRound] = []
    init = AdaRound.__init__

    def remember(self: AdaRound, *arguments: object) -> None:
        init(self, *arguments)  # type: ignore[arg-type]
        roundings.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdaRound, "__init__", remember)
        layers = method.solve(task)
    soft = roundings[0].soft()
    assert ((soft < 0.05) | (soft > 0.95)).float().mean() > 0.95
    nearest = {"fc": QuantLinear.from_float(task.linear("fc"), task.schemes["fc"])}
    assert output_error(task, layers) < 0.25 * output_error(task, nearest)
    assert output_error(task, layers) < 0.35 * output_error(task, BRECQ(epochs=0).solve(task))


def test_importance_decides_which_clip_is_kept() -> None:
    """Two clips ask different things of the same weights; the one with the weight gets them."""
    plain = low_rank_task("w2a16", clips=2, subspaces=2)

    def errors(weights: tuple[float, float]) -> list[float]:
        importance = Importance([torch.full((2, 40, 1), weight) for weight in weights], torch.ones(K))
        weighted = BlockTask(plain.place, plain.block, plain.schemes, plain.inputs, plain.floats, importance)
        layer = BRECQ(epochs=60).solve(weighted)["fc"]
        pairs = zip(plain.inputs.tokens, plain.targets.tokens, strict=True)
        return [(layer(x) - y).square().mean().item() for x, y in pairs]

    first, second = errors((1.95, 0.05)), errors((0.05, 1.95))
    assert first[0] < 0.8 * second[0]
    assert second[1] < 0.8 * first[1]


def test_quantizes_a_model_the_same_way_by_seed() -> None:
    model, clips = tiny_model(), [tiny_clip("a"), tiny_clip("b")]

    def states(seed: int) -> dict[str, torch.Tensor]:
        return quantize(model, "w3a4", "brecq", clips, {"epochs": 1}, seed=seed, progress=False).state_dict()

    first, second, other = states(1), states(1), states(2)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_refuses_impossible_settings() -> None:
    for settings in ({"epochs": -1}, {"learning_rate": 0.0}, {"clip_rate": -1.0}, {"penalty": -1.0}, {"probes": 0}):
        with pytest.raises(InputError, match="brecq needs epochs of 0 or more"):
            make_method("brecq", settings)
