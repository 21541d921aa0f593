"""Block reconstruction: it lowers the block's loss, by its seed alone, and ends where the clips say."""

import pytest
import torch

from one_layer import outlier_task, output_error
from quantvggt.calibrate.learn import fake_block
from quantvggt.calibrate.methods import make_method
from quantvggt.calibrate.methods.base import BlockTask
from quantvggt.calibrate.stream import Stream
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.nn.block import LAYERS
from quantvggt.nn.quant_linear import QuantLinear
from tiny import tiny_clip, tiny_model


def block_task(scheme: str = "w3a3", block: int = 1) -> BlockTask:
    """Global block 0 of the tiny model, a few of its input channels massive."""
    model = tiny_model()
    place = model.trunk.places[block]
    stream = Stream.start(model.trunk, model, [tiny_clip("a", 2), tiny_clip("b", 2)])
    for tokens in stream.tokens:
        tokens[..., [3, 17]] *= 30
    schemes = dict.fromkeys(LAYERS, Scheme.parse(scheme))
    return BlockTask(place, model.get_submodule(place.name), schemes, stream, stream)


def block_loss(task: BlockTask, layers: dict[str, QuantLinear]) -> float:
    block = fake_block(task, layers)  # type: ignore[arg-type]  # any layers do
    outputs = task.inputs.after(block, task.place).tokens
    return sum((a - b).square().mean().item() for a, b in zip(outputs, task.targets.tokens, strict=True))


def solve(task: BlockTask, **settings: object) -> dict[str, QuantLinear]:
    with torch.no_grad():
        return make_method("dsfq-learned", dict(settings), seed=int(str(settings.get("seed", 0)))).solve(task)


def same(a: dict[str, QuantLinear], b: dict[str, QuantLinear]) -> bool:
    pairs = [(a[layer].state_dict(), b[layer].state_dict()) for layer in a]
    return all(torch.equal(x[name], y[name]) for x, y in pairs for name in x)


@pytest.mark.parametrize("settings", [{}, {"order": "scale-rotate"}, {"smoothing": False}])
def test_learning_lowers_the_loss_of_the_block(settings: dict[str, object]) -> None:
    task = block_task()
    float_state = {name: value.clone() for name, value in task.block.state_dict().items()}
    start, end = (block_loss(task, solve(task, epochs=epochs, **settings)) for epochs in (0, 8))
    assert end < 0.97 * start
    assert all(torch.equal(value, float_state[name]) for name, value in task.block.state_dict().items())
    assert all(parameter.grad is None for parameter in task.block.parameters())


def test_learning_beats_the_closed_form_where_a_few_channels_are_massive() -> None:
    task = outlier_task("w3a3")
    closed = output_error(task, make_method("dsfq").solve(task))
    assert output_error(task, solve(task, epochs=15)) < 0.8 * closed


def test_no_epochs_give_the_closed_form_with_the_clips_it_starts_from() -> None:
    task = block_task()
    start, closed = solve(task, epochs=0), make_method("dsfq").solve(task)
    for layer, module in start.items():
        linear = task.linear(layer)
        assert torch.equal(module.input_smooth, closed[layer].input_smooth)  # type: ignore[arg-type]
        expected = QuantLinear.from_float(
            linear,
            Scheme.preset("w3a3"),
            closed[layer].transform,
            weight_clip=torch.full((linear.out_features, 2), 4.0).sigmoid(),
            input_clip=torch.full((2,), 4.0).sigmoid(),
        )
        for name, value in expected.state_dict().items():
            assert torch.equal(module.state_dict()[name], value), f"{layer}.{name}"


def test_the_seed_decides_and_nothing_else() -> None:
    task = block_task()
    first = solve(task, epochs=2, seed=1)
    torch.manual_seed(123)
    assert same(first, solve(block_task(), epochs=2, seed=1))
    assert not same(first, solve(task, epochs=2, seed=2))


def test_ticks_once_an_epoch_with_the_loss() -> None:
    task, words = block_task(), list[str]()
    task.tick = words.append
    solve(task, epochs=6)
    losses = [float(word.removeprefix("loss ")) for word in words]
    assert len(losses) == 6 == make_method("dsfq-learned", {"epochs": 6}).ticks
    assert losses[-1] < losses[0]


def test_targets_are_the_same_found_on_the_way_or_anew() -> None:
    task, again = block_task(), block_task()
    task.observe(task.block, {})
    assert "targets" in vars(task)
    assert "targets" not in vars(again)
    for found, anew in zip(task.targets.tokens, again.targets.tokens, strict=True):
        assert torch.equal(found, anew)
    # What the quantized stream gives is no target.
    other = block_task()
    other.inputs = Stream(other.inputs.part, [2 * x for x in other.inputs.tokens], other.inputs.contexts)
    other.observe(other.block, {})
    assert torch.equal(other.targets.tokens[0], again.targets.tokens[0])


@pytest.mark.parametrize(
    "settings", [{"epochs": -1}, {"learning_rate": 0}, {"clip_rate": 0}, {"inputs": "both"}, {"alpha": 2}]
)
def test_settings_that_cannot_be(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match="dsfq-learned"):
        make_method("dsfq-learned", settings)
