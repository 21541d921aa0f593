"""A whole quantized model through the kernels."""

from dataclasses import replace

import pytest
import torch

import quantvggt as qv
from quantvggt.kernels import registry
from tiny import CONFIG, tiny_clip, tiny_model

SMALLEST = replace(CONFIG, depth=1, dpt_layers=(0, 0, 0, 0))


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-5), ("mixed", 0.03)])
def test_a_quantized_model_gives_what_it_gives_on_the_reference(monkeypatch, tmp_path, dtype, tolerance):
    qv.save(qv.quantize(tiny_model(SMALLEST), "w4a8", "rtn", progress=False), tmp_path / "small")
    model = qv.load(tmp_path / "small", dtype=dtype)
    images = tiny_clip(frames=2).images[None]
    with torch.inference_mode():
        got = model(images)
        monkeypatch.undo()
        monkeypatch.setattr(registry, "_forced", "reference")
        expected = model(images)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert (got[name] - value).norm() <= tolerance * value.norm(), name
