"""A budget: the file fits, exactly counted, and the bytes go where the answers need them."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import quantvggt as qv
from close import assert_close_answers, in_own_memory
from quantvggt.calibrate import sensitivity
from quantvggt.calibrate.budget import Choice, GroupChoice, format_groups
from quantvggt.calibrate.journal import LOSSES, PREFIX
from quantvggt.calibrate.rest import rest_scheme, round_layer
from quantvggt.calibrate.sensitivity import measure_losses, task_loss
from quantvggt.checkpoint.save import checkpoint_bytes
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.models import VGGT, Answers, VGGTConfig
from quantvggt.models.sites import all_sites, site_groups
from quantvggt.nn.block import LAYERS, Block
from quantvggt.nn.quant_weight import QuantWeight
from tiny import CONFIG, tiny_clip, tiny_model

DINO = replace(
    CONFIG, img_size=56, embed_dim=384, depth=1, num_heads=6, patch_embed="dinov2_vits14_reg", camera_num_heads=8,
    dpt_layers=(0, 0, 0, 0), heads=("camera", "depth", "track"),
)  # fmt: skip

# Rounding moves a few of a layer's 8-bit inputs by a step, which is about 1e-4 of what 2-bit weights do.
LOSS_TOLERANCE = 1e-3


def file_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def small(
    budget: int | None, method: str = "rtn", model: VGGT | None = None, scheme: str = "w4a4", **more: str
) -> VGGT:
    clips = [tiny_clip("a", 2), tiny_clip("b", 3)]
    return qv.quantize(model or tiny_model(), scheme, method, clips, budget=budget, progress=False, **more)  # type: ignore[arg-type]


def widths(model: VGGT) -> dict[str, int]:
    return {name: site.scheme.weight_bits for name, site in all_sites(model).items() if isinstance(site, QuantWeight)}


def extremes(method: str, scheme: str = "w4a4") -> tuple[int, int]:
    """Bytes of the smallest and of the largest choice, read off the error and a budget without end."""
    with pytest.raises(InputError, match="a budget of 1 bytes is too small") as error:
        small(1, method, scheme=scheme)
    largest = small(10**9, method, scheme=scheme)
    assert set(widths(largest).values()) == {8}
    return int(str(error.value).split()[-2]), checkpoint_bytes(largest, torch.float16)


@pytest.mark.parametrize(
    ("method", "scheme"), [("rtn", "w4a4"), ("rtn", "w2a8"), ("best", "w4a4"), ("dsfq", "w3a8"), ("flatquant", "w4a16")]
)
def test_the_saved_file_fits_and_uses_what_there_is(tmp_path: Path, method: str, scheme: str) -> None:
    least, most = extremes(method, scheme)
    budget = (least + most) // 2
    model = small(budget, method, scheme=scheme)
    folder = qv.save(model, tmp_path / "small")
    size = file_bytes(folder)
    assert size == checkpoint_bytes(model, torch.float16)
    assert size <= budget
    bits = widths(model)
    assert set(bits.values()) <= {Scheme.parse(scheme).weight_bits, 4, 8}
    assert min(bits.values()) <= 4 < max(bits.values())
    # No group at 4 bits could have stayed at 8: each would cost more than the room that is left.
    saved: dict[str, int] = {}
    groups = site_groups(model)
    for name, site in all_sites(model).items():
        if bits[name] <= 4:
            assert isinstance(site, QuantWeight)
            words = -(-site.in_features * bits[name] // 32)
            grown = site.out_features * (site.in_features - 4 * words)
            saved[groups[name]] = saved.get(groups[name], 0) + grown
    assert budget - size < min(saved.values()) + 2000
    with torch.inference_mode():
        before, after = (in_own_memory(each)(tiny_clip().images) for each in (model, qv.load(folder)))
    assert_close_answers(after, before)


def test_the_smallest_budget_is_the_one_that_the_error_names(tmp_path: Path) -> None:
    # The error comes before anything is measured; with the measured losses the record is a little longer.
    least, _ = extremes("best")
    model = small(least + 1000, "best")
    assert set(widths(model).values()) == {4}
    assert file_bytes(qv.save(model, tmp_path / "small")) <= least + 1000


def test_sensitive_groups_keep_their_bits() -> None:
    least, most = extremes("rtn")
    model = small(least + (most - least) // 3)
    assert model.quantization is not None
    groups = model.quantization.settings["budget"]["groups"]
    assert list(groups) == list(dict.fromkeys(site_groups(model).values()))
    rate = {name: group["loss"] / group["bytes"] for name, group in groups.items()}  # bytes halve with the bits
    low = {name for name, group in groups.items() if group["scheme"].startswith("w4")}
    assert low
    assert low < set(groups)
    cheapest, costliest = min(rate, key=lambda name: groups[name]["loss"]), max(groups, key=lambda n: groups[n]["loss"])
    assert cheapest in low
    assert costliest not in low
    assert json.loads(json.dumps(model.quantization.to_dict())) == model.quantization.to_dict()


def test_a_choice_is_made_again_and_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    least, most = extremes("best")
    budget = (least + most) // 2
    first, second = small(budget, "best"), small(budget, "best", journal=str(tmp_path / "journal"))
    assert first.quantization == second.quantization
    states = first.state_dict(), second.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_losses_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {layer: {f"camera_head.trunk.0.{layer}": Scheme.parse("w2a8")} for layer in LAYERS}
    measured: list[float] = []

    def measure(clip: str, folder: Path | None, most: int = 99) -> dict[str, float]:
        measured.clear()

        def counted(*args: Answers) -> float:
            if len(measured) == most:
                raise KeyboardInterrupt
            measured.append(task_loss(*args))
            return measured[-1]

        monkeypatch.setattr(sensitivity, "task_loss", counted)
        return measure_losses(tiny_model(), groups, [tiny_clip(clip, 2)], progress=False, folder=folder)

    whole = measure("a", None)
    with pytest.raises(KeyboardInterrupt):
        measure("a", tmp_path, most=3)
    for left in (1, 0):
        assert measure("a", tmp_path) == whole
        assert len(measured) == left
    assert measure("b", tmp_path) == measure("b", None) != whole
    for broken in ("", "[]", "{}"):
        (tmp_path / f"{PREFIX}{LOSSES}").write_text(broken)
        assert measure("a", tmp_path) == whole


def test_losses_are_those_of_the_model_with_only_this_group_rounded() -> None:
    model, clip = tiny_model(), tiny_clip("a", 2)
    site = "camera_head.trunk.0.attn.qkv"
    scheme = {site: Scheme.parse("w2a8")}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = measure_losses(model, {"none": {}, "one": scheme}, [clip], progress=False)
    assert losses["none"] == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    rounded = qv.quantize(model, "w8a8", "rtn", progress=False, site_schemes=scheme)  # another model altogether
    changed = tiny_model()
    changed.set_submodule(site, rounded.get_submodule(site))
    with torch.inference_mode():
        answers, expected = (each.answers(clip.images) for each in (changed, model))
    # Cameras alone depend on this layer.
    assert losses["one"] == pytest.approx(task_loss(answers, expected), rel=LOSS_TOLERANCE)
    assert answers.depth is not None
    assert expected.depth is not None
    assert_close_answers({"depth": answers.depth}, {"depth": expected.depth})
    assert losses["one"] > 0


@pytest.mark.parametrize("config", [CONFIG, replace(DINO, heads=("camera", "depth"))])
def test_losses_are_those_of_whole_passes(config: VGGTConfig) -> None:
    def whole_pass(model: VGGT) -> Answers:
        return model.answers(clip.images, dense=[0])

    model, clip, w2a8 = tiny_model(config), tiny_clip("a", 2), Scheme.parse("w2a8")
    # The last layer of each group, and one of every block of the trunk.
    sites = {group: site for site, group in site_groups(model).items()}
    sites |= {site: site for site in all_sites(model) if re.fullmatch(r"aggregator\.\w+_blocks.*attn\.proj", site)}
    groups = {name: {site: rest_scheme(w2a8, model.get_submodule(site))} for name, site in sites.items()}
    losses = measure_losses(model, groups, [clip], progress=False)
    with torch.inference_mode():
        expected = whole_pass(model)
        for name, schemes in groups.items():
            changed = tiny_model(config)
            for site, scheme in schemes.items():
                changed.set_submodule(site, round_layer(model.get_submodule(site), scheme, search=False))
            assert losses[name] == pytest.approx(task_loss(whole_pass(changed), expected), rel=LOSS_TOLERANCE), name
    assert min(losses.values()) > 1e-4


def test_blocks_in_front_of_a_group_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(self: Block, *args: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return forward(self, *args)

    forward = Block.forward
    monkeypatch.setattr(Block, "forward", counted)
    model = tiny_model(replace(CONFIG, heads=("depth",)))
    w8 = Scheme.parse("w8a8")
    measure_losses(model, {"last": {"aggregator.global_blocks.1.mlp.fc2": w8}}, [tiny_clip("a", 2)], progress=False)
    assert calls == 4 + 1


def test_the_task_loss_has_no_unit() -> None:
    def answers(scale: float, error: float) -> Answers:
        depth = torch.linspace(1, 3, 24).view(1, 1, 4, 6) * scale
        points = torch.linspace(2, 5, 72).view(1, 1, 4, 6, 3) * scale
        return Answers((4, 6), depth=depth * (1 + error), points=points * (1 + error))

    losses = [task_loss(answers(scale, 0.1), answers(scale, 0)) for scale in (1.0, 50.0)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # 10 % of depth, and, a third for each coordinate, of most points' distance.
    assert 0.01 + 0.01 / 3 * 0.7 < losses[0] <= 0.01 + 0.01 / 3 * 1.001
    broken = replace(answers(1, 0), depth=torch.full((1, 1, 4, 6), torch.nan))
    assert task_loss(broken, answers(1, 0)) > 1e6
    # What a model with one head says is compared in that head alone.
    only_depth = replace(answers(1, 0.1), points=None)
    assert task_loss(only_depth, answers(1, 0)) == pytest.approx(0.01, rel=1e-4)


def test_every_kind_of_part_takes_part(tmp_path: Path) -> None:
    model = tiny_model(DINO)
    half = checkpoint_bytes(model, torch.float16)
    chosen = small(int(half / 2.5), model=model)
    groups = set(site_groups(chosen).values())
    assert groups >= {
        "aggregator.frame_blocks.0-3", "aggregator.global_blocks.0-3", "aggregator.patch_embed.blocks.8-11",
        "camera_head.trunk.0-3", "camera_head.poseLN_modulation", "depth_head.scratch.refinenet1",
        "depth_head.projects", "track_head.feature_extractor", "track_head.tracker",
    }  # fmt: skip
    assert file_bytes(qv.save(chosen, tmp_path / "small")) <= half / 2.5
    images = torch.rand(2, 3, 140, 140, generator=torch.Generator().manual_seed(0))
    queries = torch.tensor([[30.0, 40.0], [70.0, 60.0]])
    with torch.inference_mode():
        before, after = (in_own_memory(each)(images, queries) for each in (chosen, qv.load(tmp_path / "small")))
    firm = ("pose_enc", "depth", "depth_conf")
    assert_close_answers({key: after[key] for key in firm}, {key: before[key] for key in firm})
    # The tracker's sines make pixels of a last place.
    torch.testing.assert_close(after["track"], before["track"], atol=2, rtol=0)


def test_refuses_what_cannot_be_meant() -> None:
    with pytest.raises(InputError, match="leave site_schemes and rest out"):
        small(10**6, rest="w8a8")
    with pytest.raises(InputError, match="leave -static out of w4a4-static"):
        small(10**6, scheme="w4a4-static")


def test_refuses_a_model_that_cannot_be_quantized_before_it_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    done = small(None)
    mixed = tiny_model()
    mixed.mix(torch.bfloat16)
    monkeypatch.setattr(VGGT, "encode", lambda *_: pytest.fail("the model was run"))
    for model, words in (done, "quantized already"), (mixed, 'load it without dtype="mixed"'):
        with pytest.raises(InputError, match=words):
            small(10**9, model=model)


def test_the_table_of_a_choice() -> None:
    group = GroupChoice("w4a4", 1_234_567, 0.00123)
    head, _, line = format_groups(Choice(10**9, {}, {"camera_head.trunk.0-3": group}).to_dict()).splitlines()
    assert head.split("  ")[0] == "group"
    assert line.split() == ["camera_head.trunk.0-3", "w4a4", "1.23", "1.23e-03"]
