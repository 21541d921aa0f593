"""Which of other frames' patches a token sees, for how many each counts, and models that attend so."""

from dataclasses import replace

import pytest
import torch

import quantvggt as qv
from da3_recorded import SMALLEST, seeded_model
from families import FAMILIES
from quantvggt.core.errors import InputError
from quantvggt.nn.block import Attention
from quantvggt.nn.quant_linear import mark_frames
from quantvggt.nn.thinned import seen_by_others
from tiny import tiny_clip, tiny_model

CPU = torch.device("cpu")


def test_a_grid_of_patches_stands_for_all() -> None:
    seen = seen_by_others(2 + 3 * 5, 2, 5, 2, CPU)
    counts = seen.exp()
    assert counts[:2].tolist() == [1, 1]
    kept = counts[2:].view(3, 5)
    assert (kept > 0).tolist() == [[True, False, True, False, True], [False] * 5, [True, False, True, False, True]]
    assert torch.allclose(kept.sum(), torch.tensor(15.0))
    assert seen_by_others(17, 2, 5, 1, CPU).tolist() == [0] * 17


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_a_model_of_any_family_attends_fast_or_exactly(family: str) -> None:
    model, images = FAMILIES[family](), tiny_clip(frames=3).images[None]

    def tokens(images: torch.Tensor) -> torch.Tensor:
        return model.last_output(model.encode(images))

    exact, alone = tokens(images), tokens(images[:, :1])
    assert model.attention == "exact"
    model.attention = "fast"
    assert model.attention == "fast"
    strides = {
        place.kind: {
            layer.stride for layer in model.get_submodule(place.name).modules() if isinstance(layer, Attention)
        }
        for place in model.trunk.places
    }
    assert strides == {"frame": {1}, "global": {2}}
    fast = tokens(images)
    assert fast.isfinite().all()
    assert (fast - exact).norm() > 1e-3 * exact.norm()
    torch.testing.assert_close(tokens(images[:, :1]), alone)
    model.attention = "exact"
    torch.testing.assert_close(tokens(images), exact)
    with pytest.raises(InputError, match="unknown attention 'quick'; use one of: exact, fast"):
        model.attention = "quick"


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_families_that_say_so_tell_their_layers_the_columns(family: str) -> None:
    model = FAMILIES[family]()
    model.encode(torch.rand(1, 2, 3, 2 * model.patch_size, 3 * model.patch_size))
    layers = model._global_attention()
    assert model.tells_columns
    assert {layer.columns for layer in layers} == {3}


def test_what_can_not_be_thinned_out_says_so() -> None:
    model = tiny_model()
    model.__class__ = type("Silent", (type(model),), {"tells_columns": False})
    for ask, value in (("attention", "fast"), ("attention_bits", 8)):
        with pytest.raises(InputError, match=r"models of family vggt .*how many patches make a row"):
            setattr(model, ask, value)
    model.attention, model.attention_bits = "exact", 16
    one_by_one = seeded_model(replace(SMALLEST, start=SMALLEST.depth))
    with pytest.raises(InputError, match="this model of family da3 has no global attention to be thinned out"):
        one_by_one.attention = "fast"
    with pytest.raises(InputError, match="this model of family da3 has no global attention with 8-bit"):
        one_by_one.attention_bits = 8
    one_by_one.attention, one_by_one.attention_bits = "exact", 16


@torch.inference_mode()
def test_frames_alike_in_every_cell_lose_nothing() -> None:
    """Where all patches of a frame have the same key and value, a few of them with their weight are all of them."""
    block = tiny_model().aggregator.global_blocks[0]
    mark_frames(block, 5 + 12, 5, 4)
    x = torch.randn(1, 3, 17, 64, generator=torch.Generator().manual_seed(0))
    x[:, :, 5:] = x[:, :, 5:6]
    exact = block(x.flatten(1, 2))
    block.attn.stride = 2
    assert torch.allclose(block(x.flatten(1, 2)), exact, atol=1e-5)


def test_calibration_is_exact() -> None:
    clips = [tiny_clip("a"), tiny_clip("b")]
    plain = qv.quantize(tiny_model(), "w4a4", "dsfq", calibration=clips, progress=False)
    thinned = tiny_model()
    thinned.attention = "fast"
    quantized = qv.quantize(thinned, "w4a4", "dsfq", calibration=clips, progress=False)
    assert quantized.attention == "fast"
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, quantized.state_dict()[name]), name
