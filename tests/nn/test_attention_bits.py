"""Models whose queries and keys are rounded to 8 bits: which of them, and what isn't."""

import warnings

import pytest
import torch

import quantvggt as qv
from families import FAMILIES
from quantvggt.core.errors import InputError
from quantvggt.nn import block
from quantvggt.nn.block import Attention
from tiny import sane_model, tiny_clip, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_global_attention_of_any_family_has_8_or_16_bits(family: str) -> None:
    model, images = FAMILIES[family](), tiny_clip(frames=3).images[None]

    def tokens() -> torch.Tensor:
        return model.last_output(model.encode(images))

    exact = tokens()
    assert model.attention_bits == 16
    model.attention_bits = 8
    assert model.attention_bits == 8
    bits = {
        place.kind: {
            layer.score_bits for layer in model.get_submodule(place.name).modules() if isinstance(layer, Attention)
        }
        for place in model.trunk.places
    }
    assert bits == {"frame": {16}, "global": {8}}
    rounded = tokens()
    assert 1e-5 < (rounded - exact).norm() / exact.norm() < 0.02
    model.attention = "fast"
    assert not torch.equal(tokens(), rounded)
    model.attention, model.attention_bits = "exact", 16
    torch.testing.assert_close(tokens(), exact)


@pytest.mark.parametrize("bits", [4, 7, "8", None])
def test_other_widths_are_refused(bits: object) -> None:
    with pytest.raises(InputError, match="attention_bits is 16 or 8, not "):
        tiny_model().attention_bits = bits  # type: ignore[assignment]


def test_calibration_has_16_bits() -> None:
    clips = [tiny_clip("a"), tiny_clip("b")]
    plain = qv.quantize(tiny_model(), "w4a4", "dsfq", calibration=clips, progress=False)
    rounding = tiny_model()
    rounding.attention_bits = 8
    quantized = qv.quantize(rounding, "w4a4", "dsfq", calibration=clips, progress=False)
    assert quantized.attention_bits == 8
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, quantized.state_dict()[name]), name


@torch.inference_mode()
def test_that_no_kernel_has_it_is_said_once() -> None:
    model, images = tiny_model(), tiny_clip(frames=2).images[None]
    model.attention_bits = 8
    block._tell_if_slow.cache_clear()
    with pytest.warns(
        UserWarning, match=r"plain PyTorch here \(float32 on cpu; they are made for NVIDIA GPUs\), slower"
    ):
        model.encode(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(images)


def test_a_scene_says_so() -> None:
    model, clip = sane_model(), tiny_clip(frames=2)
    assert "attention_bits" not in qv.reconstruct(model, clip).provenance
    model.attention_bits = 8
    assert qv.reconstruct(model, clip).provenance["attention_bits"] == 8
