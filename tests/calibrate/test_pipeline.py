"""From a float model to a quantized one: what changes, what stays, what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import quantvggt as qv
from close import assert_close_answers, in_own_memory
from quantvggt.calibrate.methods import find_method, make_method, needs_clips
from quantvggt.calibrate.pipeline import quantize
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.models.sites import quantizable_sites
from quantvggt.nn.quant_linear import QuantLinear
from quantvggt.nn.tensors import TENSORS
from quantvggt.scenes.clip import Clip
from tiny import require_attention, tiny_clip, tiny_model


def drift(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(((a[key] - b[key]).norm() / b[key].norm()).item() for key in b)


@pytest.mark.parametrize("method", ["rtn", "dsfq"])
def test_quantizes_every_site_and_leaves_the_float_model_alone(method: str) -> None:
    model, clip = tiny_model(), tiny_clip()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.inference_mode():
        expected = model(clip.images)
    small = quantize(model, "w8a8", method, [tiny_clip("a"), tiny_clip("b")], progress=False)

    assert all(isinstance(site, QuantLinear) for site in quantizable_sites(small).values())
    assert small.quantization is not None
    assert small.quantization.method == method
    assert model.quantization is None
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with torch.inference_mode():
        assert drift(small(clip.images), expected) < 0.05
        assert drift(quantize(model, "w2a2", method, [clip], progress=False)(clip.images), expected) > 0.05


def test_calibration_is_deterministic_and_recorded() -> None:
    model, clips = tiny_model(), [tiny_clip("a"), tiny_clip("b")]
    first = quantize(model, "w4a4", "dsfq", clips, {"alpha": 0.4}, seed=3, progress=False)
    second = quantize(model, "w4a4", "dsfq", clips, {"alpha": 0.4}, seed=3, progress=False)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert first.quantization is not None
    assert first.quantization.settings.items() >= {"alpha": 0.4, "momentum": 0.95, "seed": 3}.items()
    assert first.quantization.calibration["clips"] == [
        {"kind": "seeded", "name": name, "frames": [f"{name}_0", f"{name}_1", f"{name}_2"]} for name in "ab"
    ]


def test_every_pattern_of_site_schemes_counts_the_last_one_most(tmp_path: Path) -> None:
    patterns = {"*_blocks.0.*": "w8a8", "*.mlp.fc2": "w4a8-s8", "aggregator.global_blocks.1.mlp.fc2": "w3a16"}
    patterns["*.attn.proj"] = "w4a4-tensor-static"
    small = quantize(tiny_model(), "w4a4", "dsfq", [tiny_clip("a")], progress=False, site_schemes=patterns)
    got = {name: site.scheme.name for name, site in quantizable_sites(small).items() if isinstance(site, QuantLinear)}
    for name, scheme in got.items():
        expected = "w8a8" if "_blocks.0." in name else "w4a4"
        expected = "w4a8-s8" if name.endswith("fc2") else expected
        expected = "w3a16" if name == "aggregator.global_blocks.1.mlp.fc2" else expected
        assert scheme == ("w4a4-tensor-static" if name.endswith("proj") else expected)
    assert len(set(got.values())) == 5
    assert small.quantization is not None
    assert small.quantization.scheme.name == "w4a4"

    folder = qv.save(small, tmp_path / "mixed")
    sites = json.loads((folder / "config.json").read_text())["sites"]
    assert {name: f"w{x['weight_bits']}a{x['act_bits']}{x.get('granularity', '')}" for name, x in sites.items()} == got
    with torch.inference_mode():
        before, after = (in_own_memory(each)(tiny_clip().images) for each in (small, qv.load(folder)))
    assert_close_answers(after, before)


def test_a_pattern_for_everything_is_as_good_as_the_scheme() -> None:
    for method in ("dsfq", "best"):
        states = [
            quantize(tiny_model(), scheme, method, [tiny_clip("a", 2)], progress=False, site_schemes=patterns)
            for scheme, patterns in (("w4a4", {}), ("w8a8", {"*": "w4a4"}), ("w8a8", {"*.qkv": "w3a3", "*": "w4a4"}))
        ]
        first, *others = (model.state_dict() for model in states)
        assert all(torch.equal(other[name], value) for other in others for name, value in first.items())


def test_learning_on_the_quantized_stream_is_another_result() -> None:
    clips = [tiny_clip("a", 2), tiny_clip("b", 2)]

    def learned(inputs: str) -> dict[str, torch.Tensor]:
        settings = {"epochs": 2, "inputs": inputs}
        return quantize(tiny_model(), "w3a3", "dsfq-learned", clips, settings, progress=False).state_dict()

    on_float, on_quantized = learned("float"), learned("quantized")
    first, later = "aggregator.frame_blocks.0.attn.qkv.input_smooth", "aggregator.frame_blocks.1.attn.qkv.input_smooth"
    assert torch.equal(on_float[first], on_quantized[first])  # nothing comes before it
    assert not torch.equal(on_float[later], on_quantized[later])


@pytest.mark.parametrize("method", ["dsfq", "dsfq-learned", "best"])
def test_models_in_16_bits_are_calibrated_too(method: str) -> None:
    require_attention(torch.bfloat16)
    model, clip = tiny_model().to(torch.bfloat16), tiny_clip()
    settings = {"epochs": 1} if method == "dsfq-learned" else {}
    small = quantize(model, "w8a8", method, [tiny_clip("a", 2)], settings, progress=False)
    assert small.dtype == torch.bfloat16
    with torch.inference_mode():
        assert drift(small(clip.images), tiny_model()(clip.images)) < 0.1


@pytest.mark.parametrize("method", ["dsfq", "dsfq-learned", "best"])
def test_clips_may_differ_in_size(method: str) -> None:
    clips = [tiny_clip("a", 2), Clip(tiny_clip("b", 2).images[..., :56, :], ["x", "y"])]
    settings = {"epochs": 1} if method == "dsfq-learned" else {}
    small = quantize(tiny_model(), "w8a8", method, clips, settings, progress=False, site_schemes={"*.fc2": "w8a7-s8"})
    with torch.inference_mode():
        assert drift(small(clips[1].images), tiny_model()(clips[1].images)) < 0.1


def test_what_is_not_quantized_is_stored_in_16_bits_and_computes_the_same(tmp_path: Path) -> None:
    small, clip = quantize(tiny_model(), "w4a4", "dsfq", [tiny_clip("a")], progress=False), tiny_clip()
    qv.save(small, tmp_path / "small")
    sites = set(quantizable_sites(small))
    with safe_open(tmp_path / "small" / "model.safetensors", "pt") as file:
        kept = [name for name in file.keys() if name.rpartition(".")[0] not in sites or name.endswith(".bias")]  # noqa: SIM118
        assert {file.get_slice(name).get_dtype() for name in kept} == {"F16"}
    with torch.inference_mode():
        before, after = (in_own_memory(each)(clip.images) for each in (small, qv.load(tmp_path / "small")))
    assert_close_answers(after, before)


def test_refuses_what_cannot_be_meant() -> None:
    model = tiny_model()
    with pytest.raises(InputError, match="needs a calibration set"):
        quantize(model, "w4a4", "dsfq", progress=False)
    with pytest.raises(InputError, match="unknown scheme 'w4'"):
        quantize(model, "w4", "rtn", progress=False)
    with pytest.raises(InputError, match="quantized already"):
        quantize(quantize(model, "w8a8", "rtn", progress=False), "w4a4", "rtn", progress=False)
    with pytest.raises(
        InputError, match=r"no site fits '\*.fc3'; they are named like aggregator.frame_blocks.0.attn.qkv"
    ):
        quantize(model, "w4a4", "rtn", progress=False, site_schemes={"*.fc3": "w8a8"})
    with pytest.raises(InputError, match="unknown scheme 'w8'"):
        quantize(model, "w4a4", "rtn", progress=False, site_schemes={"*.fc2": "w8"})


def test_a_static_scheme_for_a_few_sites_sees_the_callers_clips() -> None:
    clips = [tiny_clip("a", 2)]
    small = qv.quantize(tiny_model(), "w4a4", "rtn", clips, site_schemes={"*.proj": "w4a4-static"}, progress=False)
    whole = qv.quantize(tiny_model(), "w4a4-static", "rtn", clips, progress=False)
    for name, site in quantizable_sites(small).items():
        assert isinstance(site, QuantLinear)
        assert site.scheme.static == name.endswith("proj")
        if site.scheme.static:
            assert torch.equal(site.state_dict()["input_range"], whole.get_submodule(name).state_dict()["input_range"])
    assert small.quantization is not None
    assert len(small.quantization.calibration["clips"]) == 1


@pytest.mark.parametrize(
    ("method", "schemes", "needs"),
    [
        ("rtn", ["w4a4", None], False),
        ("rtn", ["w4a4", None, "w8a8", "w4a4-tensor-static"], True),
        ("rtn", [Scheme.parse("w4a4-static")], True),
        ("dsfq", ["w4a4"], True),
    ],
)
def test_what_needs_a_calibration_set(method: str, schemes: list[str | Scheme | None], needs: bool) -> None:
    assert needs_clips(find_method(method), *schemes) == needs
    assert needs_clips(make_method(method), *schemes) == needs


def test_every_float32_number_that_stays_is_rounded_and_the_float_model_is_not() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.aggregator.camera_token.fill_(1e6)  # beyond float16
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = quantize(model, "w4a4", "dsfq", [tiny_clip("a", 2)], progress=False)
    rounded = 0
    for name, value in small.state_dict().items():
        if value.dtype == torch.float32 and name.rpartition(".")[2] not in TENSORS:
            expected = before[name] if name == "aggregator.camera_token" else before[name].half().float()
            assert torch.equal(value, expected), name
            rounded += 1
    assert rounded > 100
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
