"""The whole way at VGGT-1B's real size, with seeded weights: quantize, save, load, run."""

from pathlib import Path

import pytest
import torch

import quantvggt as qv
from close import assert_close_answers, in_own_memory
from quantvggt.models import VGGTConfig
from quantvggt.models.seeded import seeded_model
from quantvggt.models.sites import quantizable_sites
from quantvggt.scenes.clip import Clip


@pytest.mark.slow
def test_vggt_1b_round_trip_is_small_and_exact(tmp_path: Path) -> None:
    model = seeded_model(VGGTConfig.vggt_1b())
    total = sum(parameter.numel() for parameter in model.parameters())
    small = qv.quantize(model, "w4a4", "rtn", progress=False)
    del model
    qv.save(small, tmp_path / "small")

    sites = quantizable_sites(small).values()
    packed = sum(site.in_features * site.out_features for site in sites)  # type: ignore[operator]
    scales = sum(site.out_features for site in sites)  # type: ignore[misc]
    size = (tmp_path / "small" / "model.safetensors").stat().st_size
    expected = packed / 2 + 4 * scales + 2 * (total - packed)
    assert expected < size < 1.001 * expected

    images = torch.rand(2, 3, 112, 140, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before, after = (in_own_memory(each)(images) for each in (small, qv.load(tmp_path / "small")))
    assert_close_answers(after, before)
    assert all(value.isfinite().all() for value in after.values())


@pytest.mark.slow
def test_vggt_1b_as_a_whole_fits_in_3_7_times_less(tmp_path: Path) -> None:
    model = seeded_model(VGGTConfig.vggt_1b())
    budget = int(2 * sum(parameter.numel() for parameter in model.parameters()) / 3.7)
    clip = Clip(torch.rand(2, 3, 140, 140, generator=torch.Generator().manual_seed(0)), ["a", "b"])
    small = qv.quantize(model, "w4a4", "rtn", [clip], budget=budget, progress=False)
    del model
    qv.save(small, tmp_path / "small")
    assert sum(file.stat().st_size for file in (tmp_path / "small").iterdir()) <= budget
    with torch.inference_mode():
        before, after = (in_own_memory(each)(clip.images) for each in (small, qv.load(tmp_path / "small")))
    assert_close_answers(after, before)
