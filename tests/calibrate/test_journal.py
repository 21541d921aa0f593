"""An interrupted calibration goes on where it stopped, and ends with the same bits as one that wasn't."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from quantvggt.calibrate.journal import Journal, discard, fingerprint
from quantvggt.calibrate.methods import find_method
from quantvggt.calibrate.methods.base import BlockTask
from quantvggt.calibrate.pipeline import quantize
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.jobs import code
from quantvggt.models import VGGT
from quantvggt.nn.quant_linear import QuantLinear
from tiny import tiny_clip, tiny_model

BLOCKS = ["frame_blocks.0", "global_blocks.0", "frame_blocks.1", "global_blocks.1"]
Recorder = Callable[..., list[str]]


class Interrupted(Exception):
    pass


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """solved(method) -> the blocks that it solves from now on; after `stop_after` of them it raises."""

    def record(method: str, stop_after: int = 99) -> list[str]:
        kind, blocks = find_method(method), list[str]()
        original = kind.solve

        def solve(self: object, task: BlockTask) -> dict[str, QuantLinear]:
            if len(blocks) == stop_after:
                raise Interrupted
            blocks.append(task.place.name.removeprefix("aggregator."))
            result: dict[str, QuantLinear] = original(self, task)
            return result

        monkeypatch.setattr(kind, "solve", solve)
        return blocks

    return record


def calibrate(model: VGGT, method: str, scheme: str, journal: Path | None, seed: int = 0, clip: str = "b") -> VGGT:
    settings = {"dsfq-learned": {"epochs": 2}, "qdrop": {"epochs": 1}}.get(method, {})
    clips = [tiny_clip("a", 2), tiny_clip(clip, 2)]
    return quantize(model, scheme, method, clips, settings, seed=seed, progress=False, journal=journal)


def assert_same(a: VGGT, b: VGGT) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert a.quantization == b.quantization


@pytest.mark.parametrize(
    ("method", "scheme"),
    [("dsfq", "w4a4"), ("dsfq-learned", "w4a4"), ("best", "w4a4"), ("qdrop", "w4a4"), ("dsfq", "w5a5-static-asym")],
)
def test_resumes_at_the_block_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solved: Recorder, method: str, scheme: str
) -> None:
    model, folder = tiny_model(), tmp_path / "unfinished"
    whole = calibrate(model, method, scheme, None)
    solved(method, stop_after=2)
    with pytest.raises(Interrupted):
        calibrate(model, method, scheme, folder)
    monkeypatch.undo()
    assert len(list(folder.iterdir())) == 2
    rest = solved(method)
    resumed = calibrate(model, method, scheme, folder)
    assert rest == BLOCKS[2:]
    assert_same(resumed, whole)
    assert_same(calibrate(model, method, scheme, folder), whole)  # not saved yet
    assert rest == BLOCKS[2:]
    discard(folder)
    assert not folder.exists()
    for site in ("aggregator.frame_blocks.0.mlp.fc1", "aggregator.global_blocks.1.attn.qkv"):
        a, b = resumed.get_submodule(site), whole.get_submodule(site)
        assert isinstance(a, QuantLinear)
        assert isinstance(b, QuantLinear)
        assert a.scheme == b.scheme


@pytest.mark.parametrize("change", [{"seed": 1}, {"scheme": "w3a3"}, {"clip": "c"}, {"model": "other"}])
def test_the_journal_of_another_task_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solved: Recorder, change: dict[str, object]
) -> None:
    solved("dsfq", stop_after=2)
    with pytest.raises(Interrupted):
        calibrate(tiny_model(), "dsfq", "w4a4", tmp_path)
    monkeypatch.undo()
    model = tiny_model()
    if change.pop("model", None):
        model.aggregator.camera_token.data[0, 0, 0, 0] += 1e-3
    arguments = {"scheme": "w4a4", **change}
    whole = calibrate(model, "dsfq", journal=None, **arguments)  # type: ignore[arg-type]
    blocks = solved("dsfq")
    assert_same(calibrate(model, "dsfq", journal=tmp_path, **arguments), whole)  # type: ignore[arg-type]
    assert blocks == BLOCKS


@pytest.mark.parametrize(("file", "seen"), [("calibrate/methods/base.py", 0), ("nn/fused.py", 0), ("cli/main.py", 2)])
def test_blocks_of_other_code_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solved: Recorder, file: str, seen: int
) -> None:
    copy, folder, model = tmp_path / "package", tmp_path / "unfinished", tiny_model()
    shutil.copytree(code.PACKAGE, copy, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", copy)
    with monkeypatch.context() as patch:
        patch.setattr(find_method("dsfq"), "solve", find_method("dsfq").solve)
        solved("dsfq", stop_after=2)
        with pytest.raises(Interrupted):
            calibrate(model, "dsfq", "w4a4", folder)
    (copy / file).write_text((copy / file).read_text() + "# a change\n")
    blocks = solved("dsfq")
    calibrate(model, "dsfq", "w4a4", folder)
    assert blocks == BLOCKS[seen:]


def test_files_that_are_no_blocks_are_left_alone_and_broken_ones_solved_again(tmp_path: Path, solved: Recorder) -> None:
    model = tiny_model()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "unfinished-aggregator.frame_blocks.0.safetensors").write_bytes(b"half a block")
    (tmp_path / ".unfinished-aggregator.frame_blocks.1.safetensors.x7d").write_bytes(b"what a killed run was writing")
    blocks = solved("dsfq")
    small = calibrate(model, "dsfq", "w4a4", tmp_path)
    assert blocks == BLOCKS
    assert_same(small, calibrate(model, "dsfq", "w4a4", None))
    discard(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def layer(scheme: str, bias: bool, dtype: torch.dtype = torch.float32) -> QuantLinear:
    torch.manual_seed(0)
    linear = torch.nn.Linear(16, 8, bias=bias).to(dtype)
    transform = Transform(shift=torch.randn(16), left=torch.eye(2), right=torch.eye(8)) if bias else Transform()
    ranges = torch.tensor([[2.0, -1.0]]).expand(7, 2) if "static" in scheme else None
    return QuantLinear.from_float(linear, Scheme.parse(scheme), transform, input_range=ranges)


def test_a_block_comes_back_bit_for_bit(tmp_path: Path) -> None:
    layers = {
        "attn.qkv": layer("w4a4-s8", True),
        "attn.proj": layer("w8a8-static", False),
        "mlp.fc1": layer("w3a16", True, torch.bfloat16),
    }
    Journal(tmp_path, "task").write("block", layers)
    back = Journal(tmp_path, "task").read("block")
    assert back is not None
    assert Journal(tmp_path, "task").read("another block") is None
    assert Journal(tmp_path, "another task").read("block") is None
    assert list(back) == list(layers)
    for name, module in layers.items():
        assert back[name].scheme == module.scheme
        states = back[name].state_dict(), module.state_dict()
        assert list(states[0]) == list(states[1])
        for key, value in states[1].items():
            assert states[0][key].dtype == value.dtype
            assert torch.equal(states[0][key], value)
    (file,) = tmp_path.iterdir()
    with safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["values"])["mlp.fc1"] == [16, 8, "w3a16"]


def test_fingerprints_differ_where_anything_differs() -> None:
    model, clips, record = tiny_model(), [tiny_clip("a", 1), tiny_clip("b", 1)], {"method": "dsfq", "alpha": 0.5}
    prints = [
        fingerprint(model, clips, record),
        fingerprint(model, clips[::-1], record),
        fingerprint(model, clips[:1], record),
    ]
    prints.append(fingerprint(model, clips, {**record, "alpha": 0.6}))
    prints.append(fingerprint(model.double(), clips, record))
    model.aggregator.camera_token.data.view(-1)[0] += 1
    prints.append(fingerprint(model, clips, record))
    assert len(set(prints)) == len(prints)
    assert (
        fingerprint(tiny_model(), [tiny_clip("a", 1), tiny_clip("b", 1)], dict(reversed(record.items()))) == prints[0]
    )


def test_a_new_clip_of_the_same_name_is_another_task() -> None:
    clip = tiny_clip("a", 1)
    changed = tiny_clip("a", 1)
    changed.images[0, 0, 0, 0] += 0.01
    prints: list[Tensor | str] = [fingerprint(tiny_model(), [each], {}) for each in (clip, changed)]
    assert prints[0] != prints[1]
