"""The helper that compares answers passes what rounding does and nothing larger."""

import pytest
import torch
from torch import Tensor

import quantvggt as qv
from close import UNIT_ROUNDOFF, assert_close_answers, in_own_memory
from quantvggt.models import VGGT
from tiny import sane_model, tiny_clip, tiny_model


def answers(model: VGGT, images: Tensor | None = None) -> dict[str, Tensor]:
    with torch.inference_mode():
        result: dict[str, Tensor] = model(tiny_clip().images if images is None else images)
    return result


@pytest.mark.parametrize("seed", range(3))
def test_rounding_every_weight_and_pixel_once_more_is_close(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for make in (tiny_model, sane_model):
        model, images = make(), tiny_clip().images
        expected = answers(model)
        with torch.no_grad():
            for tensor in (*model.parameters(), images):
                tensor *= 1 + UNIT_ROUNDOFF * torch.randn(tensor.shape, generator=generator)
        got = answers(model, images)
        assert any(not torch.equal(got[key], value) for key, value in expected.items())
        assert_close_answers(got, expected)


@pytest.mark.parametrize("site", ["aggregator.frame_blocks.0.attn.proj", "aggregator.global_blocks.1.mlp.fc2"])
@pytest.mark.parametrize("others", ["float", "w4a4"])
def test_one_layer_more_in_8_bits_is_not_close(site: str, others: str) -> None:
    model = sane_model() if others == "float" else qv.quantize(sane_model(), others, "rtn", progress=False)
    expected, before = answers(model), model.get_submodule(site)
    model.set_submodule(site, qv.quantize(sane_model(), "w8a8", "rtn", progress=False).get_submodule(site))
    for key, value in answers(model).items():
        with pytest.raises(AssertionError, match=f"{key} is off by"):
            assert_close_answers({key: value}, {key: expected[key]})
    model.set_submodule(site, before)
    assert_close_answers(answers(model), expected)


def test_other_names_shapes_dtypes_and_nan_are_not_close() -> None:
    expected = {"depth": torch.ones(2, 3)}
    for got in (
        {},
        {"depth": torch.ones(2, 3), "conf": torch.ones(2)},
        {"depth": torch.ones(3, 2)},
        {"depth": torch.ones(2, 3).double()},
        {"depth": torch.full((2, 3), torch.nan)},
    ):
        with pytest.raises(AssertionError):
            assert_close_answers(got, expected)


def test_in_own_memory_keeps_the_numbers_and_aligns_them() -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.data = torch.empty(parameter.numel() + 1)[1:].view(parameter.shape).copy_(parameter.data)
    assert all(parameter.data_ptr() % 64 for parameter in model.parameters())
    assert in_own_memory(model) is model
    assert not any(parameter.data_ptr() % 64 for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
