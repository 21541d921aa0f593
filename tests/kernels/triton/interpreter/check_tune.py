"""Tiles tried out under the interpreter: times mean nothing there, but the way from trying to using them is whole."""

import json
from pathlib import Path

import pytest
import torch

import quantvggt as qv
from quantvggt.cli import tune as command
from quantvggt.cli.main import main
from quantvggt.kernels import ops
from quantvggt.kernels.triton import linear, tune, tuned
from quantvggt.kernels.triton.tiles import CANDIDATES, INTERPRETED, Shape
from tiny import CONFIG, tiny_model

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuned._chip.cache_clear()
    yield tmp_path
    tuned._chip.cache_clear()


@pytest.mark.parametrize(("bits", "rank"), [(8, 0), (4, 16)])
def test_every_candidate_gives_the_same(monkeypatch, bits, rank):
    monkeypatch.setattr(tune, "REPEATS", 1)
    tried = tune.try_out(Shape(64, 72, 40, bits, rank), CPU)
    assert tried.left_out == {}
    assert tried.tile in {INTERPRETED.few, *CANDIDATES}
    assert 0 < tried.seconds <= tried.known_seconds


def test_the_command_keeps_what_products_then_use(monkeypatch, capsys, tmp_path):
    model = tmp_path / "small"
    qv.save(qv.quantize(tiny_model(CONFIG), "w4a8", "rtn", progress=False), model)
    shape = Shape(64, 64, 192, 4, 0)  # qkv
    assert shape in command.shapes_of(qv.load(model))
    monkeypatch.setattr(command, "shapes_of", lambda model: [shape])
    quickest = CANDIDATES[2]

    def seconds(run, device):
        run()
        return 1.0 if run.__self__.warps == quickest.warps else 2.0

    monkeypatch.setattr(tune, "seconds", seconds)
    monkeypatch.setattr(tune, "candidates", lambda shape, chip: [quickest])
    assert main(["tune", str(model), "--device", "cpu", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    known = {"known_tile": str(INTERPRETED.few), "known_seconds": 2.0}
    assert told["shapes"] == [{**shape._asdict(), "tile": str(quickest), "seconds": 1.0, **known}]
    assert told["left_out"] == {}
    assert tuned.file_of(CPU) == Path(told["file"])

    used, plan = [], linear.plan
    monkeypatch.setattr(linear, "plan", lambda step, y, tile: used.append(tile) or plan(step, y, tile))
    step = tune.sample(shape, CPU)
    ops.int_linear(*(getattr(step, name) for name in ("q", "row_scale", "weight", "weight_scale", "bias", "out_dtype")))
    assert used == [quickest]


def test_a_float_model_has_nothing_to_tune(capsys, tmp_path):
    qv.save(tiny_model(CONFIG), tmp_path / "model")
    assert main(["tune", str(tmp_path / "model"), "--device", "cpu"]) == 2
    assert "no products of integers" in capsys.readouterr().err
