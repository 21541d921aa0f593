"""Static ranges are what the finished layers' inputs reach on the calibration set."""

import pytest
import torch
from torch import Tensor

from quantvggt.calibrate.pipeline import quantize
from quantvggt.core.errors import InputError
from quantvggt.models import VGGT
from quantvggt.models.sites import quantizable_sites
from quantvggt.nn.quant_linear import QuantLinear
from quantvggt.scenes.clip import Clip
from tiny import tiny_clip, tiny_model

TOKENS = 5 + 5 * 5  # of a frame of 70 x 70


def seen_inputs(model: VGGT, clips: list[Clip]) -> dict[str, Tensor]:
    """What each site of the float model sees, as [frames of all clips, TOKENS, K]."""
    seen: dict[str, list[Tensor]] = {}

    def hook(name: str, inputs: tuple[Tensor, ...]) -> None:
        seen.setdefault(name, []).append(inputs[0].reshape(-1, TOKENS, inputs[0].shape[-1]))

    for name, site in quantizable_sites(model).items():
        site.register_forward_pre_hook(lambda module, inputs, name=name: hook(name, inputs))
    with torch.inference_mode():
        for clip in clips:
            model.aggregator(clip.images[None], (1,))
    return {name: torch.cat(parts) for name, parts in seen.items()}


@pytest.mark.parametrize("method", ["rtn", "dsfq"])
@pytest.mark.parametrize("scheme", ["w8a8-static", "w8a8-tensor-static", "w6a6-static-asym"])
def test_ranges_are_the_extremes_of_all_clips(scheme: str, method: str) -> None:
    clips = [tiny_clip("a", 2), tiny_clip("b", 3)]
    small = quantize(tiny_model(), scheme, method, clips, progress=False)
    for name, x in seen_inputs(tiny_model(), clips).items():
        layer = small.get_submodule(name)
        assert isinstance(layer, QuantLinear)
        wide = layer.transform.apply(x)
        dims = (0, 1, 2) if layer.scheme.per_tensor else (0, 2)
        expected = torch.stack((wide.amax(dims).clamp(min=0), wide.amin(dims).clamp(max=0)), -1).view(-1, 2)
        assert layer.input_range is not None
        assert layer.input_range.shape == (1 if layer.scheme.per_tensor else TOKENS, 2)
        torch.testing.assert_close(layer.input_range, expected, rtol=1e-4, atol=1e-5)


def test_all_else_is_as_with_dynamic_ranges() -> None:
    clips = [tiny_clip("a", 2)]
    static = quantize(tiny_model(), "w4a4-static", "dsfq", clips, progress=False).state_dict()
    dynamic = quantize(tiny_model(), "w4a4", "dsfq", clips, progress=False).state_dict()
    assert {name.rpartition(".")[2] for name in static.keys() - dynamic.keys()} == {"input_range"}
    assert all(torch.equal(static[name], value) for name, value in dynamic.items())


def test_sees_every_frame_also_where_an_mlp_runs_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [tiny_clip("a", 3)]
    whole = quantize(tiny_model(), "w4a4-static", "rtn", clips, progress=False).state_dict()
    monkeypatch.setattr("quantvggt.nn.block.MLP_ROWS_PER_CHUNK", TOKENS + 1)
    parts = quantize(tiny_model(), "w4a4-static", "rtn", clips, progress=False).state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-5)


def test_refuses_frames_of_another_size_than_the_calibration_sets() -> None:
    small = quantize(tiny_model(), "w8a8-static", "rtn", [tiny_clip("a", 2)], progress=False)
    with torch.inference_mode():
        assert small(tiny_clip().images)["depth"].isfinite().all()
        with pytest.raises(InputError, match="w8a8-static was calibrated for frames of 30 tokens, not 25; use images"):
            small(torch.rand(2, 3, 56, 70))


def test_clips_of_several_sizes_have_one_range_per_tensor_and_none_per_token() -> None:
    clips = [tiny_clip("a", 2), Clip(torch.rand(2, 3, 56, 70), ["x", "y"])]
    small = quantize(tiny_model(), "w8a8-tensor-static", "rtn", clips, progress=False)
    site = small.get_submodule("aggregator.frame_blocks.0.attn.qkv")
    assert isinstance(site, QuantLinear)
    assert site.input_range is not None
    assert site.input_range.isfinite().all()
    with torch.inference_mode():
        assert all(small(clip.images)["depth"].isfinite().all() for clip in clips)
    with pytest.raises(InputError, match="static ranges per token need calibration images of one size"):
        quantize(tiny_model(), "w8a8-static", "rtn", clips, progress=False)


def test_static_needs_clips_whatever_the_method() -> None:
    with pytest.raises(InputError, match="scheme w8a8-static needs a calibration set"):
        quantize(tiny_model(), "w8a8-static", "rtn", progress=False)
    with pytest.raises(InputError, match="scheme w4a4-tensor-static needs a calibration set"):
        quantize(tiny_model(), "w4a4", "rtn", progress=False, site_schemes={"*.fc2": "w4a4-tensor-static"})
