"""Which of other frames' patches a token sees, for how many each counts, and models that attend so."""

import pytest
import torch

import quantvggt as qv
from quantvggt.core.errors import InputError
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


@torch.inference_mode()
def test_a_model_attends_fast_or_exactly() -> None:
    model, clip = tiny_model(), tiny_clip(frames=3)
    exact = model.answers(clip.images)
    assert model.attention == "exact"
    model.attention = "fast"
    assert model.attention == "fast"
    assert [block.attn.stride for block in model.aggregator.frame_blocks] == [1, 1]
    fast = model.answers(clip.images)
    assert not torch.equal(fast.depth, exact.depth)
    alone = clip.images[:1]
    other = tiny_model()
    assert torch.equal(model.answers(alone).depth, other.answers(alone).depth)
    model.attention = "exact"
    assert torch.equal(model.answers(clip.images).depth, exact.depth)
    with pytest.raises(InputError, match="unknown attention 'quick'; use one of: exact, fast"):
        model.attention = "quick"


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
