"""The differentiable layer computes as the integer one, and its gradients are those of a plain formulation."""

import pytest
import torch
from torch import Tensor, nn

from quantvggt.calibrate.fake_quant import FakeQuantLinear, NearestWeight, clamp_rows, extremes, round_to_grid
from quantvggt.core.affine import dequantize
from quantvggt.core.errors import InputError
from quantvggt.core.rotation import random_signs
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.models.vggt.aggregator import NUM_SPECIAL
from quantvggt.nn.quant_linear import mark_frames

K, N, TOKENS = 32, 24, 9
SCHEMES = (
    "w8a8",
    "w4a4",
    "w3a16",
    "w4a4-tensor",
    "w5a5-asym",
    "w4a4-tensor-asym",
    "w4a4-s8",
    "w3a3-asym-s7",
    "w4a4-asym-s8",
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def float_linear(bias: bool = True) -> nn.Linear:
    linear = nn.Linear(K, N, bias=bias)
    linear.weight.data = draw(N, K, seed=1)
    linear.weight.data[3] = draw(K, seed=2).abs()  # one-sided rows
    linear.weight.data[4] = -draw(K, seed=3).abs()
    return linear


def inputs() -> Tensor:
    x = 0.5 + draw(2, TOKENS, K, seed=4)
    x[:, :NUM_SPECIAL] *= 8
    return x


TRANSFORMS = {
    "none": Transform(),
    "dsfq": Transform(signs=random_signs(K, 0), smooth=0.5 + draw(K, seed=5).abs()),
    "scale-rotate": Transform(presmooth=0.5 + draw(K, seed=5).abs(), signs=random_signs(K, 0)),
    "everything": Transform(
        shift=draw(K, seed=6),
        presmooth=0.5 + draw(K, seed=7).abs(),
        left=torch.eye(4) + 0.1 * draw(4, 4, seed=8),
        right=torch.eye(8) + 0.1 * draw(8, 8, seed=9),
        signs=random_signs(K, 1),
        smooth=0.5 + draw(K, seed=5).abs(),
    ),
}


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_frozen_layer_computes_the_same(scheme: str, name: str, clips: bool) -> None:
    transform, kind = TRANSFORMS[name], Scheme.parse(scheme)
    learn = tuple(
        part for part, value in vars(transform).items() if value is not None and part not in ("signs", "shift")
    )
    fake = FakeQuantLinear(
        float_linear(bias=name != "dsfq"),
        kind,
        transform,
        learn=learn,
        clip_logit=torch.tensor([1.0, 2.0]) if clips and kind.quantizes_activations else None,
        weight_rounding=NearestWeight(draw(N, 2, seed=10) + 1.5 if clips else None),
    )
    real = fake.freeze()
    mark_frames(fake, TOKENS, NUM_SPECIAL)
    mark_frames(real, TOKENS, NUM_SPECIAL)
    assert set(fake.learned) == set(learn)
    assert real.scheme == kind
    weight = fake.transformed_weight().detach()
    integers, scale = fake.weight_rounding.integers(weight, kind.weight_bits)
    assert torch.equal(fake.weight_rounding(weight, kind.weight_bits).detach(), dequantize(integers, scale))
    # The frozen layer found W'' without gradients, and PyTorch may sum the products of its map in another order then.
    moved = (real.integer_weight().int() - integers.int()).abs()
    assert moved.max() <= 1
    assert (moved > 0).float().mean() < 0.01
    torch.testing.assert_close(real.weight_scale, scale)
    for x in (inputs(), inputs().flatten(0, 1)[None]):
        expected, got = real(x), fake(x).detach()
        # Sums in another order; and a number halfway between two integers may round the other way.
        step = expected.abs().max()
        assert ((got - expected).abs() < 1e-5 * step).float().mean() > 0.97
        torch.testing.assert_close(got, expected, rtol=0, atol=0.1 * float(step))


def test_half_precision_models_keep_their_dtype() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        linear = float_linear().to(dtype)
        fake = FakeQuantLinear(linear, Scheme.preset("w8a8"), TRANSFORMS["everything"])
        y, expected = fake(inputs().to(dtype)), linear(inputs().to(dtype))
        assert y.dtype == dtype
        assert (y - expected).norm() < 0.05 * expected.norm()


def test_what_learns_reaches_the_frozen_layer_and_stays_positive() -> None:
    fake = FakeQuantLinear(float_linear(), Scheme.preset("w4a4"), TRANSFORMS["dsfq"], learn=("smooth",))
    fake.learned["smooth"].data[:2] = torch.tensor([3.0, -1.0])
    real = fake.freeze()
    assert real.input_smooth is not None
    assert real.input_smooth[0] == 3
    assert 0 < real.input_smooth[1] < 1e-4
    assert torch.equal(real.input_smooth[2:], TRANSFORMS["dsfq"].smooth[2:])  # type: ignore[index]


def test_dropped_rounding_only_while_training() -> None:
    fake = FakeQuantLinear(float_linear(), Scheme.parse("w8a3"), Transform(), drop=0.5)
    fake.eval()
    assert torch.equal(fake(inputs()), fake(inputs()))
    fake.train()
    torch.manual_seed(0)
    assert not torch.equal(fake(inputs()), fake(inputs()))


def test_static_ranges_are_not_learned() -> None:
    with pytest.raises(InputError, match="w4a4-static: static ranges can't be learned"):
        FakeQuantLinear(float_linear(), Scheme.parse("w4a4-static"), Transform())


class StraightThrough(torch.autograd.Function):
    """round() whose gradient is 1: the textbook version."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0]


def plain_grid(x: Tensor, scale: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    q: Tensor = StraightThrough.apply(x / scale)
    return torch.clamp(q, low, high) * scale  # type: ignore[arg-type]


def plain_extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.max(-1, keepdim=True).values.clamp(min=0), x.min(-1, keepdim=True).values.clamp(max=0)


@pytest.mark.parametrize("per_row", [False, True])
def test_gradient_of_rounding_is_autograds(per_row: bool) -> None:
    x, scale = draw(6, K).double().requires_grad_(), (0.2 + draw(6, 1, seed=1).abs()).double().requires_grad_()
    low: Tensor | float = torch.full((6, 1), -4.0, dtype=torch.float64) if per_row else -4.0
    high: Tensor | float = torch.arange(1, 7, dtype=torch.float64)[:, None] if per_row else 3.0
    towards = draw(6, K, seed=2).double()
    results = [function(x, scale, low, high) for function in (round_to_grid, plain_grid)]
    torch.testing.assert_close(*results)
    got, expected = (torch.autograd.grad((y * towards).sum(), (x, scale)) for y in results)
    assert ((x / scale).abs() > 4.5).any()
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_gradient_of_rounding_is_that_of_its_smooth_surrogate() -> None:
    """With rounding's error held fixed the grid is a smooth function, and finite differences see its gradient."""
    x, scale = draw(5, K).double(), (0.2 + draw(5, 1, seed=1).abs()).double()
    error = (x / scale).round() - x / scale
    inside = ((x / scale).round() >= -4) & ((x / scale).round() <= 3)

    def surrogate(x: Tensor, scale: Tensor) -> Tensor:
        return torch.where(inside, x + error * scale, (x / scale).clamp(-4, 3).round().detach() * scale).sum()

    live = [value.clone().requires_grad_() for value in (x, scale)]
    got = torch.autograd.grad(round_to_grid(live[0], live[1], -4, 3).sum(), live)
    for position, value in enumerate((x, scale)):
        for index in ((0, 0), (2, 0), (4, 0)):
            bump = torch.zeros_like(value)
            bump[index] = 1e-6
            sides = [[x, scale], [x, scale]]
            sides[0][position], sides[1][position] = value + bump, value - bump
            slope = (surrogate(*sides[0]) - surrogate(*sides[1])) / 2e-6
            torch.testing.assert_close(got[position][index], slope, rtol=1e-5, atol=1e-5)


def test_gradient_of_extremes_is_autograds() -> None:
    x = draw(6, K).double()
    x[1], x[2] = x[1].abs(), -x[2].abs()  # a range that ends at zero doesn't move
    x.requires_grad_()
    towards = draw(6, 2, seed=1).double()
    got, expected = (
        torch.autograd.grad((torch.cat(function(x), 1) * towards).sum(), x)[0]
        for function in (extremes, plain_extremes)
    )
    torch.testing.assert_close(got, expected)


def test_gradient_of_clamping_rows() -> None:
    x = draw(5, 7).double().requires_grad_()
    low, high = (sign * (0.3 + draw(5, 1, seed=1).double().abs()) for sign in (-1, 1))
    assert torch.autograd.gradcheck(clamp_rows, (x, low.requires_grad_(), high.requires_grad_()))
    assert torch.equal(clamp_rows(x, low, high), torch.clamp(x, low, high))


def test_weight_clipping_learns_as_published() -> None:
    """Each row clamped to its clipped range, then rounded: the published chain in plain PyTorch."""
    weight, logit = float_linear().weight.detach().double(), draw(N, 2, seed=3).double().requires_grad_()
    weight.requires_grad_()
    rounding = NearestWeight()
    rounding.clip_logit = nn.Parameter(logit.detach())
    towards = draw(N, K, seed=4).double()
    (rounding(weight, 4) * towards).sum().backward()
    assert rounding.clip_logit.grad is not None
    got = weight.grad, rounding.clip_logit.grad

    clip = logit.sigmoid()
    high, low = weight.max(1, keepdim=True).values * clip[:, :1], weight.min(1, keepdim=True).values * clip[:, 1:]
    high, low = high.clamp(min=0), low.clamp(max=0)
    clamped = torch.clamp(weight, low, high)
    expected = torch.autograd.grad(
        (plain_grid(clamped, torch.maximum(high, -low) / 7, -8, 7) * towards).sum(), (weight, logit)
    )
    for a, b in zip(got, expected, strict=True):
        assert a is not None
        torch.testing.assert_close(a, b)
    assert (expected[1] != 0).all(1).sum() > N / 2  # both sides learn, not only the one that sets the scale
