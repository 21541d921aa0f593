"""All that is done to a VGGT is done to a Pi3 and a Pi3X."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import quantvggt as qv
from close import assert_close_answers, in_own_memory
from pi3_models import CONFIG, CONFIG_X, numbers, pi3_clip, sane_pi3
from quantvggt.calibrate.importance import block_importance
from quantvggt.calibrate.sensitivity import measure_losses
from quantvggt.checkpoint.save import checkpoint_bytes
from quantvggt.core.scheme import Scheme
from quantvggt.evaluate.run import evaluate, predict
from quantvggt.models import FAMILIES
from quantvggt.models.given import Given
from quantvggt.models.pi3.conditions import Conditions
from quantvggt.models.pi3.config import Pi3Config
from quantvggt.models.pi3.model import Pi3
from quantvggt.models.sites import all_sites, quantizable_sites, rest_sites, site_groups
from quantvggt.nn.quant_weight import QuantWeight
from quantvggt.scenes.preprocess import MODES
from quantvggt.scenes.synthetic import make_clips

CONFIGS = pytest.mark.parametrize("config", [CONFIG, CONFIG_X], ids=["pi3", "pi3x"])
CLIPS = make_clips([9_500_000, 9_500_001], frames=2, size=42)
LICENCE = "ignore:weights of this size are published under CC BY-NC"


def distance(model: Pi3, other: Pi3) -> float:
    a, b = numbers(model, pi3_clip().images), numbers(other, pi3_clip().images)
    return max(((a[name] - b[name]).norm() / b[name].norm()).item() for name in b)


@CONFIGS
@pytest.mark.filterwarnings(LICENCE)
@pytest.mark.parametrize(("method", "scheme", "rest"), [("rtn", "w8a8", None), ("best", "w4a4", "w8a8")])
def test_it_is_quantized_saved_and_loaded(
    config: Pi3Config, method: str, scheme: str, rest: str | None, tmp_path: Path
) -> None:
    model = sane_pi3(config)
    small = qv.quantize(model, scheme, method, CLIPS, rest=rest, progress=False)
    assert isinstance(small, Pi3)
    quantized = {site for site, layer in all_sites(small).items() if isinstance(layer, QuantWeight)}
    assert quantized == set(all_sites(model) if rest else quantizable_sites(model))
    assert 0 < distance(small, model) < (0.02 if scheme == "w8a8" else 0.7)
    loaded = qv.load(qv.save(small, tmp_path / "small"))
    assert type(loaded) is type(small)
    assert loaded.quantization == small.quantization
    states = loaded.state_dict(), small.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    images = pi3_clip().images
    assert_close_answers(*(numbers(in_own_memory(each), images) for each in (loaded, small)))  # type: ignore[arg-type, type-var]


def test_quantized_it_is_still_told() -> None:
    model = sane_pi3(CONFIG_X)
    small = qv.quantize(model, "w8a8", "best", CLIPS, rest="w8a8", progress=False)
    cameras = torch.eye(3, 4).repeat(3, 1, 1)
    cameras[:, 0, 3] = torch.arange(3.0)
    images, known = pi3_clip().images[None], Given(cameras, torch.eye(3).repeat(3, 1, 1) * 40, torch.ones(3, 42, 56))
    with torch.inference_mode():
        told, exact = (each.encode(images, Conditions.of(known, (42, 56))) for each in (small, model))  # type: ignore[operator]
        plain = model.encode(images)
    assert (told - exact).norm() < 0.02 * exact.norm() < 0.5 * (plain - exact).norm()


@CONFIGS
def test_every_layer_has_its_place(config: Pi3Config) -> None:
    model = sane_pi3(config)
    sites, groups = rest_sites(model), site_groups(model)
    assert list(quantizable_sites(model))[:2] == ["decoder.0.attn.qkv", "decoder.0.attn.proj"]
    assert not any(site.startswith("camera_head.") for site in sites)
    assert {"point_decoder.projects", "conf_decoder.linear_out", "camera_decoder.blocks.0.mlp.fc2"} <= set(sites)
    assert {"decoder.0-3", "encoder.blocks.0-3", "point_decoder.blocks.0-3"} <= set(groups.values())
    if config is CONFIG_X:
        assert {"pose_inject_blk.0.attn.qkv", "metric_decoder.blocks.0.cross_attn.k_proj"} <= set(sites)
        assert {"depth_encoder.blocks.0-3", "pose_inject_blk.0", "metric_decoder.blocks"} <= set(groups.values())
        convolutions = [site for site, layer in sites.items() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
        assert "point_head.upsample_blocks.0.1.layers.2" in convolutions
    else:
        assert "point_head.proj" in sites


@CONFIGS
def test_heads_are_judged_by_what_they_move(config: Pi3Config) -> None:
    """Against all heads at every group: what `heads_behind` leaves out doesn't move."""
    model = sane_pi3(config)
    groups: dict[str, dict[str, Scheme]] = {}
    for site, group in site_groups(model).items():
        scheme = Scheme.parse("w4a8")
        convolution = isinstance(model.get_submodule(site), nn.Conv2d | nn.ConvTranspose2d)
        groups.setdefault(group, {})[site] = scheme.weights_only if convolution else scheme
    losses = measure_losses(model, groups, CLIPS, progress=False)
    model.heads_behind = lambda sites: model.heads  # type: ignore[method-assign]
    assert losses == pytest.approx(measure_losses(model, groups, CLIPS, progress=False), rel=1e-3, abs=1e-9)
    unmoved = {group for group, loss in losses.items() if loss < 1e-9}
    known = ("conf_", "depth_encoder.", "ray_embed.", "pose_inject_blk.")  # confidences don't count; nothing is told
    assert unmoved == {group for group in losses if group.startswith(known)}


@CONFIGS
def test_a_budget_is_spent_on_it(config: Pi3Config, tmp_path: Path) -> None:
    model = sane_pi3(config)
    whole = qv.quantize(model, "w8a8", "rtn", rest="w8a8", progress=False)
    budget = int(checkpoint_bytes(whole, torch.float16) * 0.9)
    small = qv.quantize(model, "w4a4", "rtn", CLIPS, budget=budget, progress=False)
    assert small.quantization is not None
    assert set(small.quantization.settings["budget"]["groups"]) == set(site_groups(model).values())
    folder = qv.save(small, tmp_path / "small")
    assert sum(file.stat().st_size for file in folder.iterdir()) <= budget


@CONFIGS
def test_calibration_clips_are_chosen_by_it(config: Pi3Config) -> None:
    model = sane_pi3(config)
    chosen = qv.select_calibration(model, CLIPS * 3, size=2, strategy="clustered", progress=False)
    assert len(chosen) == 2
    weights = block_importance(model, CLIPS, progress=False)
    assert list(weights) == [f"decoder.{index}" for index in range(config.depth)]
    assert all(each.channels.isfinite().all() for each in weights.values())


@CONFIGS
def test_it_reconstructs_photos_and_is_judged(config: Pi3Config, tmp_path: Path) -> None:
    from PIL import Image

    model = sane_pi3(config)
    (tmp_path / "photos").mkdir()
    for index, image in enumerate(pi3_clip(height=90, width=120).images):
        pixels = (image.permute(1, 2, 0) * 255).byte().numpy()
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
    width, height = MODES["area"].plan(120, 90, config.img_size).window
    for points in ("depth", "pointmap"):
        scene = qv.reconstruct(model, tmp_path / "photos", points=points)
        assert scene.size == (height, width)
        assert scene.provenance.get("scale") == ("metric" if config is CONFIG_X else None)
        assert (scene.depth > 0).all()
        assert (scene.points_conf > 0).all()
    scene.export(tmp_path / "scene", formats=("colmap", "cameras"))
    assert list((tmp_path / "scene").rglob("cameras.txt"))
    if config is CONFIG_X:
        again = qv.reconstruct(model, tmp_path / "photos", cameras=tmp_path / "scene")
        assert again.provenance["extrinsics"] == again.provenance["intrinsics"] == "given"
        assert (again.depth != scene.depth).any()
        np.testing.assert_allclose(again.extrinsics, scene.extrinsics, atol=1e-6)
        assert "scale" not in again.provenance
    small = qv.quantize(model, "w4a4", "rtn", progress=False)
    labels = {"name": "pi3", "method": "rtn", "scheme": "w4a4", "seed": 0, "checkpoint_bytes": 1}
    row = evaluate(small, CLIPS, predict(model, CLIPS, progress=False), **labels, progress=False)  # type: ignore[arg-type]
    assert row["drift_depth"] > 0


def test_its_licence_is_named(tmp_path: Path) -> None:
    folder = qv.save(sane_pi3(), tmp_path / "pi3")
    with pytest.warns(UserWarning, match="published under CC BY-NC 4.0"):
        assert type(qv.load(folder)) is Pi3


@CONFIGS
@pytest.mark.filterwarnings(LICENCE)
def test_a_bare_state_dict_and_the_hubs_folder_are_loaded(
    config: Pi3Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the authors put them there, without a config.json of ours; small ones stand for the published size."""
    model = sane_pi3(config)
    family = FAMILIES[config.family]
    small = replace(family, recognise=lambda shapes: config if family.recognise(shapes) else None)
    monkeypatch.setitem(FAMILIES, config.family, small)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"some": "thing of theirs"}')
    for source in (tmp_path / "model.pth", tmp_path):
        loaded = qv.load(source)
        assert type(loaded) is type(model)
        assert loaded.config == config
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
