"""From a float model to a quantized one: what changes, what stays, what is refused."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import quantvggt as qv
from quantvggt.calibrate.pipeline import quantize
from quantvggt.core.errors import InputError
from quantvggt.models.linear import QuantLinear
from quantvggt.models.sites import quantizable_sites
from tiny import tiny_clip, tiny_model


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


def test_what_is_not_quantized_is_stored_in_16_bits_and_computes_the_same(tmp_path: Path) -> None:
    small, clip = quantize(tiny_model(), "w4a4", "dsfq", [tiny_clip("a")], progress=False), tiny_clip()
    qv.save(small, tmp_path / "small")
    sites = set(quantizable_sites(small))
    with safe_open(tmp_path / "small" / "model.safetensors", "pt") as file:
        kept = [name for name in file.keys() if name.rpartition(".")[0] not in sites or name.endswith(".bias")]  # noqa: SIM118
        assert {file.get_slice(name).get_dtype() for name in kept} == {"F16"}
    with torch.inference_mode():
        before, after = small(clip.images), qv.load(tmp_path / "small")(clip.images)
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_refuses_what_cannot_be_meant() -> None:
    model = tiny_model()
    with pytest.raises(InputError, match="needs a calibration set"):
        quantize(model, "w4a4", "dsfq", progress=False)
    with pytest.raises(InputError, match="unknown scheme 'w4'"):
        quantize(model, "w4", "rtn", progress=False)
    with pytest.raises(InputError, match="quantized already"):
        quantize(quantize(model, "w8a8", "rtn", progress=False), "w4a4", "rtn", progress=False)
