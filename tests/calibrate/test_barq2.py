"""The low-rank branch of `best`: its directions, its weights, and what it is worth where inputs have few directions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quantvggt as qv
from one_layer import OneLayer, OneLayerPart, output_error
from quantvggt.calibrate.methods import make_method
from quantvggt.calibrate.methods.barq import Barq1
from quantvggt.calibrate.methods.barq2 import Barq2, SecondMoments, leading
from quantvggt.calibrate.methods.base import BlockTask
from quantvggt.calibrate.pipeline import quantize
from quantvggt.calibrate.stream import Stream
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.models.sites import quantizable_sites
from quantvggt.nn.quant_linear import QuantLinear, mark_frames
from tiny import tiny_clip, tiny_model

K, TOKENS, SPECIAL = 96, 20, 5


def frames(seed: int, spread: float = 0.1) -> Tensor:
    """[2, TOKENS, K]: 10 directions and a little of all others, off centre."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(10, K, generator=torch.Generator().manual_seed(99))
    x = torch.randn(2, TOKENS, 10, generator=generator) @ basis
    return x + spread * torch.randn(2, TOKENS, K, generator=generator) + 1


def solved(method: str, scheme: str = "w3a3", spread: float = 0.1, **settings: object) -> tuple[BlockTask, QuantLinear]:
    part, made = OneLayerPart(), make_method(method, dict(settings))
    block = OneLayer()
    torch.manual_seed(0)
    block.fc = nn.Linear(K, K)
    inputs = Stream(part, [frames(seed, spread) for seed in range(8)], [None] * 8)
    task = BlockTask(part.places[0], block, {"fc": made.refine(Scheme.parse(scheme))}, inputs, inputs)
    layer = made.solve(task)["fc"]
    mark_frames(layer, TOKENS, SPECIAL)
    return task, layer


@pytest.mark.parametrize("scheme", ["w4a4", "w3a3", "w2a4"])
def test_few_directions_cost_little(scheme: str) -> None:
    errors = {}
    for method in ("barq-1", "barq-2"):
        task, layer = solved(method, scheme)
        errors[method] = output_error(task, {"fc": layer})
    assert errors["barq-2"] < 0.1 * errors["barq-1"]


def test_it_does_no_harm_where_all_directions_are_alike() -> None:
    (task, one), (_, two) = (solved(method, "w4a4", spread=5.0) for method in ("barq-1", "barq-2"))
    assert output_error(task, {"fc": two}) < output_error(task, {"fc": one})


def test_the_leading_directions_are_the_first_eigenvectors() -> None:
    x = frames(3).flatten(0, 1).double()
    moments = x.t() @ x
    found = leading(moments, 8)
    _, vectors = np.linalg.eigh(moments.numpy())
    np.testing.assert_allclose(np.abs(found.numpy().T @ vectors[:, -8:]), np.eye(8), atol=1e-6)
    torch.testing.assert_close(leading(moments, 8), found, rtol=0, atol=0)


def test_second_moments_of_the_balanced_input() -> None:
    moments = SecondMoments(0.3, SPECIAL)
    for seed in range(3):
        moments.observe(frames(seed), TOKENS)
    transform = Transform(shift=torch.linspace(-1, 1, K), presmooth=torch.linspace(0.5, 2, K))
    rows = np.concatenate([frames(seed).flatten(0, 1).double().numpy() for seed in range(3)])
    weights = np.tile(np.where(np.arange(TOKENS) < SPECIAL, 0.3, 1), 6)
    balanced = (rows - np.linspace(-1, 1, K)) / np.linspace(0.5, 2, K)
    expected = (balanced * weights[:, None]).T @ balanced / weights.sum()
    np.testing.assert_allclose(moments.of(transform).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_what_is_left_has_little_in_common_with_the_branch() -> None:
    """So GPTQ on the one and plain rounding of the other lose no more than both together."""
    task, layer = solved("barq-2", spread=1.0)
    rounded = torch.cat([layer.rounded_input(x).flatten(0, 1) for x in task.inputs.tokens]).double()
    left, z = rounded[:, :K], rounded[:, K:]
    in_reach = z @ torch.linalg.lstsq(z, left).solution
    assert in_reach.norm() < 0.3 * left.norm()  # 16 of 320 rows: 0.22 by chance


def test_without_a_branch_it_is_the_first_version() -> None:
    (_, one), (_, two) = solved("barq-1"), solved("barq-2", rank=0)
    assert two.branch is None
    for name, value in one.state_dict().items():
        assert torch.equal(two.state_dict()[name], value)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a16", "w8a7", "w4a4-static", "w4a4-tensor"])
def test_wide_activations_and_those_of_studies_have_none(scheme: str) -> None:
    small = quantize(tiny_model(), scheme, "best", [tiny_clip("a", 2)], progress=False)
    assert all(site.branch is None for site in quantizable_sites(small).values() if isinstance(site, QuantLinear))


def test_narrow_layers_have_none() -> None:
    assert make_method("best") == Barq2()
    _, layer = solved("best", rank=32)
    assert layer.branch is None


def test_a_checkpoint_keeps_it(tmp_path: Path) -> None:
    small = quantize(tiny_model(), "w3a3", "best", [tiny_clip("a", 2)], progress=False)
    sites = quantizable_sites(small)
    assert all(site.branch is not None for site in sites.values() if isinstance(site, QuantLinear))
    back = qv.load(qv.save(small, tmp_path / "small"))
    for name, value in small.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name
    assert back.quantization is not None
    assert back.quantization.method == "barq-2"


@pytest.mark.parametrize("rank", [-16, 1, 24, 128])
def test_ranks_that_cannot_be(rank: int) -> None:
    with pytest.raises(InputError, match=r"rank must be 0 or one of \(16, 32, 64\)"):
        make_method("best", {"rank": rank})
    assert issubclass(Barq2, Barq1)
