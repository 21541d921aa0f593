"""vggt-nano-long: trained as low-rank updates, which are all that is kept."""

import argparse
import sys
from pathlib import Path

import pytest
import torch

from quantvggt.checkpoint.load import load
from quantvggt.checkpoint.packaged import LONG, NANO, OVERLAY_NAME

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from make_long import LongTrainer
from nano.data import batch_of
from nano.lowrank import truncated


def test_truncated_factors_are_the_nearest_of_their_rank() -> None:
    draw = torch.Generator().manual_seed(1)
    left, right = torch.randn(12, 5, generator=draw), torch.randn(5, 9, generator=draw)
    tensors = {"a.left": left, "a.right": right, "b": torch.ones(3)}
    found = truncated(tensors, 2)
    assert found["a.left"].shape == (12, 2)
    singular = torch.linalg.svdvals(left @ right)
    error = torch.linalg.norm(left @ right - found["a.left"].float() @ found["a.right"].float())
    torch.testing.assert_close(error, singular[2:].norm(), rtol=1e-2, atol=0)
    whole = truncated(tensors, 5)
    torch.testing.assert_close(whole["a.left"].float() @ whole["a.right"].float(), left @ right, rtol=0, atol=0.02)


@pytest.mark.slow
def test_training_goes_on_where_it_stopped_and_its_overlay_is_the_model(tmp_path: Path) -> None:
    args = argparse.Namespace(
        out=str(tmp_path), device="cpu", seed=1, init=NANO, minutes=1.0, optimizer="adamw", lr=1e-3, frames=4,
        dense_frames=1, rank=4, camera_rank=2, kept_rank=3,
    )  # fmt: skip
    batch = batch_of([1, 2], 2)

    def step(trainer: LongTrainer, seed: int) -> None:
        torch.manual_seed(seed)
        trainer.step(batch)
        trainer.elapsed += 10

    expected = LongTrainer(args)
    step(expected, 0)
    expected.save()
    step(expected, 1)
    found = LongTrainer(args)
    found.resume()
    step(found, 1)
    for name, value in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value), name

    found.average = found.model.state_dict()
    found.save()
    nano, long = load(NANO).state_dict(), load(tmp_path / LONG / OVERLAY_NAME).state_dict()
    changed = {name for name, value in nano.items() if not torch.equal(value, long[name])}
    assert any(name.startswith("aggregator.global_blocks") for name in changed)
    assert not any(
        name.startswith(("depth_head", "point_head", "aggregator.patch_embed.proj.weight")) for name in changed
    )
