"""Pi3 at its published size, with seeded weights: quantized as a whole, saved, loaded, run."""

from pathlib import Path

import pytest
import torch

import quantvggt as qv
from close import assert_close_answers, in_own_memory
from quantvggt.models.pi3.config import Pi3Config
from quantvggt.models.seeded import seeded_model
from tiny import require_attention


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:weights of this size are published under CC BY-NC")
def test_pi3_round_trip_has_the_size_that_is_told(tmp_path: Path) -> None:
    model = seeded_model(Pi3Config())
    small = qv.quantize(model, "w4a4", "rtn", rest="w8a8", progress=False)
    del model
    qv.save(small, tmp_path / "small")
    size = sum(file.stat().st_size for file in (tmp_path / "small").iterdir())
    assert size == pytest.approx(740.5e6, rel=1e-3)  # docs/models.md
    images = torch.rand(2, 3, 70, 98, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before, after = (in_own_memory(each)(images) for each in (small, qv.load(tmp_path / "small")))
    assert_close_answers(after, before)
    del small
    require_attention(torch.bfloat16)
    with torch.inference_mode():
        mixed = qv.load(tmp_path / "small", dtype="mixed")(images)
    assert all(value.isfinite().all() for value in mixed.values())
    assert (mixed["camera_poses"] - after["camera_poses"]).abs().max() < 0.5
