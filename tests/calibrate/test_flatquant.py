"""FlatQuant: its maps leave the layer as it was, and learning them pays where outliers are."""

import numpy as np
import pytest
import torch

from one_layer import outlier_task, output_error
from quantvggt.calibrate.methods import make_method
from quantvggt.calibrate.methods.flatquant import FlatQuant, balanced, orthogonal
from quantvggt.calibrate.pipeline import quantize
from quantvggt.core.errors import InputError
from tiny import tiny_clip, tiny_model


@pytest.mark.parametrize(
    ("size", "factors"), [(256, (16, 16)), (1024, (32, 32)), (48, (6, 8)), (384, (16, 24)), (7, (1, 7))]
)
def test_sizes_are_balanced(size: int, factors: tuple[int, int]) -> None:
    assert balanced(size) == factors


def test_initial_maps_are_orthogonal_and_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = orthogonal(12, generator).double(), orthogonal(12, generator).double()
    torch.testing.assert_close(first @ first.t(), torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-6)
    assert (first - second).abs().max() > 0.1


def test_learned_maps_cancel_out() -> None:
    """X'' and W'' are float64's with the dense Kronecker product, and 8 bits give back the layer."""
    task = outlier_task("w8a8")
    layers = FlatQuant(epochs=2).solve(task)
    layer = layers["fc"]
    assert output_error(task, layers) < 2e-4
    t = layer.transform
    assert t.presmooth is not None
    assert t.left is not None
    assert t.right is not None
    dense = np.kron(t.left.double().numpy(), t.right.double().numpy())
    x, weight = task.inputs.tokens[0].double().numpy(), task.linear("fc").weight.detach().double().numpy()
    p = t.presmooth.double().numpy()
    np.testing.assert_allclose(t.apply(task.inputs.tokens[0]).numpy(), (x / p) @ dense, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        t.apply_to_weight(task.linear("fc").weight.detach()).numpy(),
        (weight * p) @ np.linalg.inv(dense).T,
        rtol=1e-3,
        atol=1e-4,
    )


def test_initial_scaling_is_smoothquants_with_alpha() -> None:
    task = outlier_task()
    layer = FlatQuant(epochs=0, alpha=0.25).solve(task)["fc"]
    peak = np.max([np.abs(x.numpy()).max((0, 1)) for x in task.inputs.tokens], axis=0)
    expected = peak**0.25 / np.abs(task.linear("fc").weight.detach().numpy()).max(0) ** 0.75
    assert layer.input_presmooth is not None
    np.testing.assert_allclose(layer.input_presmooth.numpy(), expected, rtol=1e-5)


def test_learning_beats_its_own_beginning_and_learned_dsfq_on_outliers() -> None:
    task = outlier_task("w3a3")
    learned = output_error(task, FlatQuant(epochs=15).solve(task))
    assert learned < 0.6 * output_error(task, FlatQuant(epochs=0).solve(task))
    assert learned < 0.4 * output_error(task, make_method("dsfq-learned", {"epochs": 15}).solve(task))
    assert learned == output_error(task, FlatQuant(epochs=15).solve(task))


def test_quantizes_a_model_and_says_what_it_cannot_take() -> None:
    small = quantize(tiny_model(), "w4a16", "flatquant", [tiny_clip("a")], {"epochs": 1}, seed=5, progress=False)
    assert small.quantization is not None
    assert small.quantization.settings["seed"] == 5
    with pytest.raises(InputError, match="alpha must lie between 0 and 1"):
        make_method("flatquant", {"alpha": -1})
    with pytest.raises(InputError, match="learning_rate and clip_rate above 0"):
        make_method("flatquant", {"learning_rate": 0})
