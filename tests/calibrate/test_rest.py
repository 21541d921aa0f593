"""Quantizing what the paper leaves at 16 bits: which layers, on what inputs, and what it costs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import quantvggt as qv
from close import assert_close_answers, in_own_memory
from quantvggt.calibrate.stream import Stream
from quantvggt.core.errors import InputError
from quantvggt.models import VGGT
from quantvggt.models.dino import normalise
from quantvggt.models.sites import all_sites, quantizable_sites, rest_sites
from quantvggt.nn.quant_conv import QuantConv2d
from quantvggt.nn.quant_linear import QuantLinear
from quantvggt.nn.quant_weight import QuantWeight
from tiny import CONFIG, tiny_clip, tiny_model

CLIPS = [tiny_clip("a"), tiny_clip("b")]
DINO = replace(CONFIG, patch_embed="dinov2_vits14_reg", embed_dim=384, num_heads=6, depth=1, dpt_layers=(0, 0, 0, 0))


def _answers(model: VGGT) -> dict[str, Tensor]:
    with torch.inference_mode():
        answers: dict[str, Tensor] = model(CLIPS[0].images)
    return answers


def _distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(((a[key] - b[key]).norm() / b[key].norm()).item() for key in b)


def test_the_rest_is_every_other_weight_but_the_first_and_last_ones() -> None:
    model = tiny_model(DINO)
    trunk, rest = quantizable_sites(model), rest_sites(model)
    assert not trunk.keys() & rest.keys()
    assert {f"aggregator.patch_embed.blocks.11.{layer}" for layer in ("attn.qkv", "mlp.fc2")} <= rest.keys()
    assert {"camera_head.trunk.0.mlp.fc1", "camera_head.poseLN_modulation.1"} <= rest.keys()
    assert {"depth_head.projects.0", "depth_head.resize_layers.0", "depth_head.scratch.output_conv1"} <= rest.keys()
    left = {
        name.rpartition(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and name.endswith(".weight") and name.rpartition(".")[0] not in trunk | rest
    }
    assert left == {
        "aggregator.patch_embed.patch_embed.proj",
        *("camera_head.embed_pose", "camera_head.pose_branch.fc1", "camera_head.pose_branch.fc2"),
        *("depth_head.scratch.output_conv2.2", "point_head.scratch.output_conv2.2"),
    }


@pytest.mark.parametrize("method", ["rtn", "dsfq", "gptq", "best"])
def test_every_layer_is_quantized_and_saved(method: str, tmp_path: Path) -> None:
    model = tiny_model(DINO)
    small = qv.quantize(model, "w8a8", method, CLIPS, rest="w8a8", progress=False)
    sites = all_sites(small)
    assert all(isinstance(site, QuantWeight) for site in sites.values())
    assert all(site.scheme.name == "w8a16" for site in sites.values() if isinstance(site, QuantConv2d))
    assert any(isinstance(site, QuantConv2d) for site in sites.values())
    expected = _answers(in_own_memory(small))
    assert _distance(expected, _answers(model)) < 0.1
    loaded = qv.load(qv.save(small, tmp_path / "small"))
    assert_close_answers(_answers(in_own_memory(loaded)), expected)


def test_without_rest_nothing_but_the_trunk_changes() -> None:
    small = qv.quantize(tiny_model(), "w4a4", "best", CLIPS, progress=False)
    assert not any(isinstance(site, QuantWeight) for site in rest_sites(small).values())


def test_patterns_mean_the_trunk_unless_they_fit_nothing_there() -> None:
    few = qv.quantize(tiny_model(), "w4a4", "rtn", site_schemes={"*.mlp.fc2": "w8a8"}, progress=False)
    assert not any(isinstance(site, QuantWeight) for site in rest_sites(few).values())
    one = qv.quantize(tiny_model(), "w4a4", "rtn", site_schemes={"camera_head.*": "w8a8"}, progress=False)
    names = {name for name, site in rest_sites(one).items() if isinstance(site, QuantWeight)}
    assert names == {name for name in rest_sites(one) if name.startswith("camera_head.")}
    more = qv.quantize(tiny_model(), "w4a4", "rtn", rest="w8a8", site_schemes={"*.fc2": "w4a8"}, progress=False)
    site = more.get_submodule("camera_head.trunk.0.mlp.fc2")
    assert isinstance(site, QuantLinear)
    assert site.scheme.name == "w4a8"


def test_heads_have_no_frames_to_be_static_in() -> None:
    with pytest.raises(InputError, match="not for heads"):
        qv.quantize(tiny_model(), "w8a8", "rtn", CLIPS, rest="w8a8-static", progress=False)


@torch.no_grad()
def test_streams_end_where_the_model_does() -> None:
    """Running the blocks one by one on their stream gives what the whole part gives."""
    model = tiny_model(DINO)
    embed, head, images = model.aggregator.patch_embed, model.camera_head, CLIPS[0].images[None]
    ends, outputs = [], []
    for part in model.parts:
        stream = Stream.start(part, model, CLIPS[:1])
        for place in part.places:
            stream = stream.after(model.get_submodule(place.name), place)
            outputs += stream.tokens if place in model.trunk.places else []
        ends.append(stream.tokens[0])
    torch.testing.assert_close(embed.norm(ends[0][:, 5:]), embed(normalise(images)[0]))
    features = model.encode(images)
    for layer, expected in features.items():
        torch.testing.assert_close(model.collect(outputs, None)[layer], expected)
    torch.testing.assert_close(features[model.config.depth - 1][0, :, :, -ends[1].shape[-1] :], ends[1])
    deltas = head.pose_branch(head.trunk_norm(ends[2]))
    pose = head(features[model.config.depth - 1][:, :, 0])[-1]
    torch.testing.assert_close(deltas.sum(0)[..., :7], pose[0, :, :7], rtol=1e-4, atol=1e-4)


def test_calibrated_rounding_beats_nearest_in_dino() -> None:
    model = tiny_model(DINO)
    expected = _answers(model)
    nearest, best = (
        _distance(_answers(qv.quantize(model, "w8a8", method, CLIPS, rest="w3a8", progress=False)), expected)
        for method in ("rtn", "best")
    )
    assert best < nearest
