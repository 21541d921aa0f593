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


@pytest.mark.slow
def test_training_goes_on_where_it_stopped_and_its_overlay_is_the_model(tmp_path: Path) -> None:
    args = argparse.Namespace(
        out=str(tmp_path), device="cpu", seed=1, init=NANO, minutes=1.0, optimizer="adamw", lr=1e-3, frames=4,
        dense_frames=1, rank=4, camera_rank=2,
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
