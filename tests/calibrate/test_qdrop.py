"""QDrop: activations dropped at random while rounding is learned."""

import pytest
import torch

from one_layer import K, low_rank_task, output_error
from quantvggt.calibrate.fake_quant import FakeQuantLinear
from quantvggt.calibrate.learn import reconstruct
from quantvggt.calibrate.methods import make_method
from quantvggt.calibrate.methods.base import BlockTask
from quantvggt.calibrate.methods.qdrop import QDrop
from quantvggt.calibrate.pipeline import quantize
from quantvggt.calibrate.stream import Stream
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.nn.quant_linear import QuantLinear
from tiny import tiny_clip, tiny_model


def test_learning_beats_nearest_rounding_and_its_own_beginning() -> None:
    task, method = low_rank_task("w3a8"), QDrop(epochs=40)
    learned = output_error(task, method.solve(task))
    assert learned < 0.7 * output_error(task, QDrop(epochs=0).solve(task))
    assert learned < 0.7 * output_error(task, {"fc": QuantLinear.from_float(task.linear("fc"), task.schemes["fc"])})
    assert learned == output_error(task, method.solve(task))


def test_half_of_a_layers_inputs_stay_unrounded_only_while_it_learns() -> None:
    linear = torch.nn.Linear(K, K, bias=False)
    linear.weight.data = torch.eye(K)
    layer = FakeQuantLinear(linear, Scheme.parse("w8a2"), Transform(), drop=0.5)
    x = torch.randn(100, K, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    kept = ((layer(x) - x).abs() < 1e-5).float().mean()
    assert 0.45 < kept < 0.6  # some rounded numbers lie on the grid by themselves: each row's largest
    layer.eval()
    assert ((layer(x) - x).abs() < 1e-5).float().mean() < 0.1


def test_half_of_the_blocks_input_comes_from_the_float_stream() -> None:
    task = low_rank_task("w8a16", clips=1)
    ones, zeros = (Stream(task.inputs.part, [fill(2, 40, K)], [None]) for fill in (torch.ones, torch.zeros))
    seen: list[torch.Tensor] = []

    class Spy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.detach().clone())
            return x * self.gain

    spy = Spy()
    mixed = BlockTask(task.place, task.block, task.schemes, ones, zeros)
    for mix in (0.0, 0.25):
        reconstruct(mixed, spy, [{"params": [spy.gain], "lr": 0.1}], 2, 0, mix=mix)
    plain, again, first, second = seen
    assert torch.equal(plain, torch.ones(2, 40, K))
    assert torch.equal(again, plain)
    assert 0.7 < first.mean() < 0.8
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first, second)


def test_quantizes_a_model_and_says_what_it_cannot_take() -> None:
    small = quantize(tiny_model(), "w3a4", "qdrop", [tiny_clip("a")], {"epochs": 1, "drop": 0.25}, progress=False)
    assert small.quantization is not None
    assert small.quantization.settings["drop"] == 0.25
    with pytest.raises(InputError, match="drop must be 0 or more and below 1"):
        make_method("qdrop", {"drop": 1.0})
    with pytest.raises(InputError, match="qdrop needs epochs of 0 or more"):
        make_method("qdrop", {"learning_rate": 0})
