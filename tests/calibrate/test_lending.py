"""Calibration on another device than the model's: what is there at a time, and that the result is the same.

The other device is the CPU by its index, which no tensor here is on; what is brought there is a copy whose life is
watched."""

import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from da3_recorded import sane_model as sane_da3
from pi3_models import sane_pi3
from quantvggt.calibrate import lending
from quantvggt.calibrate.importance import block_importance
from quantvggt.calibrate.lending import copy_on, lend
from quantvggt.calibrate.methods.dsfq import DSFQ
from quantvggt.calibrate.pipeline import quantize
from quantvggt.core.packing import unpack_int4
from quantvggt.models.sites import quantizable_sites
from quantvggt.models.vggt.heads.camera import ITERATIONS
from quantvggt.nn.block import Block
from quantvggt.scenes.synthetic import make_clips
from tiny import CONFIG, tiny_clip, tiny_model

THERE = torch.device("cpu", 0)


class Device:
    """bytes of numbers there now and at most; sizes: of what was brought."""

    def __init__(self):
        self.bytes = self.most = 0
        self.brought = []

    def move(self, value, device):
        there = value.detach().clone()
        there = nn.Parameter(there, value.requires_grad) if isinstance(value, nn.Parameter) else there
        self.bytes += there.nbytes
        self.most = max(self.most, self.bytes)
        self.brought.append(there.nbytes)
        weakref.finalize(there, self.free, there.nbytes)
        return there

    def free(self, size):
        self.bytes -= size


@pytest.fixture
def device(monkeypatch):
    made = Device()
    monkeypatch.setattr(lending, "_moved", made.move)
    return made


def size(module):
    return sum(x.nbytes for x in (*module.parameters(), *module.buffers()))


def outside(model):
    """Bytes of what lies in no block."""
    return size(model) - sum(size(module) for module in model.modules() if isinstance(module, Block))


DEEP = replace(CONFIG, depth=4, dpt_layers=(0, 1, 2, 3), camera_trunk_depth=2)


@pytest.mark.parametrize("method", ["rtn", "dsfq", "best", "brecq", "dsfq-learned"])
def test_no_more_than_a_block_is_there_and_the_result_is_the_same(device, method):
    model, clips = tiny_model(DEEP), [tiny_clip("a"), tiny_clip("b")]
    settings = {"epochs": 1} if method in ("brecq", "dsfq-learned") else {}
    expected = quantize(model, "w4a4", method, clips, settings, progress=False).state_dict()
    device.most, device.brought = 0, []
    before = {name: value.clone() for name, value in model.state_dict().items()}

    small = quantize(model, "w4a4", method, clips, settings, progress=False, device=THERE)
    both = 2 * outside(model)  # the float model's and the quantized one's
    if method == "brecq":  # its weights are gradients through all refinements of the cameras
        assert device.most <= both + (1 + ITERATIONS) * size(model.camera_head.trunk)
    else:
        assert device.most <= both + size(model.aggregator.frame_blocks[0])
    assert sum(device.brought) >= outside(model) + 8 * size(model.aggregator.frame_blocks[0]), "all of them were"
    assert {value.device for value in small.state_dict().values()} == {torch.device("cpu")}
    for name, value in small.state_dict().items():
        off = (value.float() - expected[name].float()).norm() / expected[name].float().norm()
        # Copies lie elsewhere, and where numbers lie decides how PyTorch's sums are ordered.
        assert name.endswith("weight_packed") or off <= 1e-3, name
    same = [
        (unpack_int4(value, 8 * value.shape[1]) == unpack_int4(expected[name], 8 * value.shape[1])).double().mean()
        for name, value in small.state_dict().items()
        if name.endswith("weight_packed")
    ]
    assert len(same) == len(quantizable_sites(small))
    assert min(same) > 0.99
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_nothing_stays_there(device):
    model = tiny_model()
    lent = lend(model, THERE)
    with torch.inference_mode():
        lent.encode(tiny_clip().images[None])
    assert device.bytes == outside(model)
    del lent
    assert device.bytes == 0


@pytest.mark.parametrize("make", [tiny_model, sane_da3, sane_pi3])
def test_a_model_that_is_lent_answers_the_same(device, make):
    model, clip = make(), make_clips([9_400_000], frames=2, size=56)[0]
    model = model if make is not tiny_model else tiny_model(replace(CONFIG, img_size=56))
    with torch.inference_mode():
        expected, got = (each.answers(clip.images) for each in (model, lend(model, THERE)))
    for name, value in vars(expected).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(got, name), value), name


def test_a_block_that_fails_goes_home_too(device):
    model = tiny_model()
    lent = lend(model, THERE)
    block = lent.aggregator.frame_blocks[0]
    with pytest.raises(RuntimeError):
        block(torch.zeros(1, 3, 5))
    assert device.bytes == outside(model)


def test_gradients_go_through_a_lent_model(device):
    model, clips = tiny_model(), [tiny_clip()]
    expected, got = block_importance(model, clips, False), block_importance(lend(model, THERE), clips, False)
    for name, weights in expected.items():
        assert torch.equal(got[name].channels, weights.channels)


def test_an_interrupted_calibration_goes_on_on_another_device(device, tmp_path: Path, monkeypatch):
    model, clips = tiny_model(), [tiny_clip("a")]
    expected = quantize(model, "w4a4", "dsfq", clips, progress=False).state_dict()
    quantize(model, "w4a4", "dsfq", clips, progress=False, journal=tmp_path, device=THERE)
    files = sorted(tmp_path.iterdir())
    assert files
    monkeypatch.setattr(DSFQ, "solve", None)  # nothing is left to solve
    again = quantize(model, "w4a4", "dsfq", clips, progress=False, journal=tmp_path)
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())


def test_a_copy_has_memory_of_its_own():
    block = nn.Linear(3, 2)
    for where in (torch.device("cpu"), THERE):
        other = copy_on(block, where)
        with torch.no_grad():
            other.weight.zero_()
        assert block.weight.abs().sum() > 0
