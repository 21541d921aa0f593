"""The benchmark's baselines compute what they should, and its rows say what happened."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import quantvggt as qv
from quantvggt.bench import run, worker
from quantvggt.bench.run import Setting, Side, benchmark, format_rows
from quantvggt.bench.sides import open_side
from quantvggt.core.errors import InputError
from quantvggt.jobs import store
from quantvggt.models import dpt
from quantvggt.nn import block
from tiny import CONFIG

KEYS = {
    *("scheme", "device", "frames", "height", "width", "baseline", "latency_s", "baseline_latency_s", "speedup"),
    *("peak_bytes", "baseline_peak_bytes", "memory_ratio", "reason", "attention_bits"),
}
SETTING = Setting([2], 112, 112, repeats=1)
SOURCE = {"family": CONFIG.family, "config": CONFIG.to_dict()}

PUBLISHED = """
import torch, quantvggt as qv
from quantvggt.bench.sides import open_side
from quantvggt.kernels import registry
images = torch.rand(1, 2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    expected = qv.load("vggt-nano").answers(images)
registry.run = None  # no kernel of ours may be asked
exact = open_side("published-float32", "vggt-nano", "cpu")(images)
rounded = open_side("published-bf16", "vggt-nano", "cpu")(images)
for key in ("extrinsics", "view", "depth", "depth_conf", "points", "points_conf"):
    value, same, near = (getattr(answers, key) for answers in (expected, exact, rounded))
    scale = value.abs().max()
    assert (same - value).abs().max() < 1e-4 * scale, key
    assert 1e-4 * scale < (near - value).abs().max(), key
    assert (near - value).abs().mean() < 0.05 * scale, key
"""


def all_rows(*args: Any, **options: Any) -> list[dict[str, Any]]:
    return [row for rows in benchmark(*args, **options) for row in rows]


def test_the_published_way_gives_the_same_numbers() -> None:
    # It changes the whole process, so it has one of its own.
    subprocess.run([sys.executable, "-c", PUBLISHED], check=True)


def test_rows_of_a_float_model() -> None:
    rows = all_rows("vggt-nano", ["w8a8", "w4a4"], ["published-float32", "float"], SETTING, progress=False)
    assert [(row["scheme"], row["baseline"]) for row in rows] == [
        (scheme, baseline) for scheme in ("w8a8", "w4a4") for baseline in ("published-float32", "float")
    ]
    for row in rows:
        assert set(row) == KEYS
        assert row["reason"] is None
        assert row["speedup"] == row["baseline_latency_s"] / row["latency_s"]
        assert row["memory_ratio"] == row["baseline_peak_bytes"] / row["peak_bytes"]
        # Weights alone are 38.6 MB in float32, and less than a third of that quantized.
        assert row["peak_bytes"] > 10e6
    published = [row["baseline_peak_bytes"] for row in rows if row["baseline"] == "published-float32"]
    assert min(published) > max(row["peak_bytes"] for row in rows)


def test_the_table_shows_units_and_what_is_missing() -> None:
    known = {"frames": 4, "scheme": "w8a8", "baseline": "float", "latency_s": 1.5, "baseline_latency_s": 3.0}
    known |= {"speedup": 2.0, "peak_bytes": 2_000_000_000, "baseline_peak_bytes": 5_000_000_000, "memory_ratio": 2.5}
    failed = dict.fromkeys(known) | {"frames": 4, "scheme": "w4a4", "baseline": "torchao", "reason": "no torchao here"}
    lines = format_rows([known | {"reason": None}, failed]).splitlines()
    assert lines[2].split() == ["4", "w8a8", "float", "1.50", "3.00", "2.00", "2.00", "5.00", "2.50"]
    assert lines[3].split() == ["4", "w4a4", "torchao", *6 * ["-"], "no", "torchao", "here"]


def test_a_quantized_checkpoint_is_compared_with_seeded_weights(tmp_path: Path) -> None:
    model = qv.quantize(qv.load("vggt-nano"), "w4a8", "rtn", progress=False)
    qv.save(model, tmp_path / "small")
    (row,) = all_rows(str(tmp_path / "small"), ["w8a8"], ["float"], SETTING, progress=False)
    assert row["scheme"] == "w4a8"
    assert row["speedup"] > 0
    assert row["attention_bits"] == 16


def test_quantized_sides_alone_have_8_bit_queries_and_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The published way changes these for its process, which here is everybody's.
    changed = (
        (block, "MLP_ROWS_PER_CHUNK"),
        (block, "MLP_BYTES_PER_CHUNK"),
        (dpt, "PIXELS_PER_CHUNK"),
    )
    for module, name in changed:
        monkeypatch.setattr(module, name, getattr(module, name))
    qv.save(qv.quantize(qv.load("vggt-nano"), "w4a8", "rtn", progress=False), tmp_path / "small")
    images = torch.rand(1, 2, 3, 56, 56, generator=torch.Generator().manual_seed(0))

    def views(side: str, *bits: int) -> torch.Tensor:
        return open_side(side, str(tmp_path / "small") if side == "w4a8" else "vggt-nano", "cpu", *bits)(images).view

    assert not torch.equal(views("w4a8", 8), views("w4a8"))
    assert torch.equal(views("published-float32", 8), views("published-float32"))
    model = qv.load(tmp_path / "small", dtype="auto")
    model.attention_bits = 8
    with torch.inference_mode():
        assert torch.equal(model.answers(images).view, views("w4a8", 8))


def test_a_side_that_fails_is_a_row_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_prepare", lambda *_: ([Side("w8a8", "no/such/checkpoint", 1)], SOURCE, 10))
    (row,) = all_rows(None, ["w8a8"], ["float"], Setting([1], 70, 70, repeats=1), progress=False)
    assert row["latency_s"] is row["speedup"] is row["memory_ratio"] is None
    assert "no/such/checkpoint" in row["reason"]
    assert row["baseline_latency_s"] > 0


def test_what_cannot_fit_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "available_bytes", lambda: 10**9)
    small = Side("w8a8", SOURCE, 1000)
    monkeypatch.setattr(run, "_prepare", lambda *_: ([small], SOURCE, 10**9))
    (row,) = all_rows(None, ["w8a8"], ["published-float32"], Setting([1], 70, 70, repeats=1), progress=False)
    assert row["reason"] == "needs about 4 GB, 1 GB are free here"
    assert row["baseline_latency_s"] is None
    assert row["latency_s"] > 0


def test_unknown_baselines() -> None:
    with pytest.raises(InputError, match="no baseline called 'gold'"):
        all_rows("vggt-nano", ["w8a8"], ["gold"], SETTING)


def test_no_two_sides_are_alive_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Recorder:
        reason = None

        def __init__(self, side: Side, setting: Setting) -> None:
            self.name = side.name
            events.append(f"+{self.name}")

        def run(self, frames: int) -> dict[str, float]:
            events.append(f"{self.name} {frames}")
            return {"seconds": len(events), "peak_bytes": len(events)}

        def close(self) -> None:
            events.append(f"-{self.name}")

    monkeypatch.setattr(run, "Process", Recorder)
    monkeypatch.setattr(run, "_prepare", lambda *_: ([Side("w4a4", {}, 1)], {}, 1))
    setting = Setting([5], 14, 14, repeats=3)
    (row,) = all_rows(None, ["w4a4"], ["float-compiled"], setting, progress=False)
    ours, theirs = ["+w4a4", "w4a4 1", "w4a4 5", "-w4a4"], ["+x", "x 5", "x 5", "-x"]
    assert events == 3 * [*ours, *(event.replace("x", "float-compiled") for event in theirs)]
    assert (row["latency_s"], row["baseline_latency_s"]) == (3 + 8, 7 + 8)
    assert row["peak_bytes"] == 3 + 16


def test_on_a_gpu_passes_are_warmed_up_until_they_may_be_graphs() -> None:
    """Which start with a shape's third pass."""
    for side in ("w4a4", "published-bf16", "float-compiled"):
        assert run.warm_ups(side, 5, "cuda:1") == [5, 5]
    assert run.warm_ups("w4a4", 5, "cpu") == [run.WARM_UP]
    assert run.warm_ups("float-compiled", 5, "cpu") == [5]


def test_a_worker_s_time_ends_when_its_gpu_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []

    def clock() -> float:
        events.append("clock")
        return float(len(events))

    task = {"side": "w4a4", "source": {}, "device": "cuda:1", "threads": 1, "height": 14, "width": 28}
    lines = [json.dumps({**task, "attention_bits": 16}) + "\n", "3\n"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(lines)))
    monkeypatch.setattr(sys, "stdout", answers := io.StringIO())
    monkeypatch.setattr(worker, "open_side", lambda *what: lambda images: events.append(tuple(images.shape)))
    monkeypatch.setattr(worker, "process_peak_bytes", lambda device, bare: {"cuda:1": 7}[device])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(device))
    monkeypatch.setattr(worker.time, "perf_counter", clock)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    worker.main()
    assert events[2:] == ["clock", (1, 3, 3, 14, 28), "cuda:1", "clock"]
    assert json.loads(answers.getvalue().splitlines()[1])["peak_bytes"] == 7


class Interrupted:
    """In place of a process: answers with the number of turns so far, until `most` of them."""

    turns: ClassVar[list[str]] = []
    most = 99
    reason = None

    def __init__(self, side: Side, setting: Setting) -> None:
        self.name = side.name

    def run(self, frames: int) -> dict[str, float]:
        if frames == run.WARM_UP:
            return {}
        if len(self.turns) == self.most:
            raise KeyboardInterrupt
        self.turns.append(self.name)
        return {"seconds": len(self.turns), "peak_bytes": len(self.turns)}

    def close(self) -> None:
        pass


def test_an_interrupted_benchmark_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, sizes = tmp_path / "new" / "turns.json", {"w4a4": 1}

    def rows(most: int, threads: int = 2) -> tuple[list[dict[str, Any]], list[str]]:
        monkeypatch.setattr(run, "Process", Interrupted)
        monkeypatch.setattr(run, "_prepare", lambda *_: ([Side("w4a4", {}, sizes["w4a4"])], {}, 1))
        Interrupted.most = most
        Interrupted.turns.clear()
        setting = Setting([5, 6], 14, 14, repeats=3, threads=threads)
        made = all_rows(None, ["w4a4"], ["float"], setting, progress=False, journal=journal)
        return made, list(Interrupted.turns)

    with pytest.raises(KeyboardInterrupt):
        rows(3)
    assert [path.name for path in journal.parent.iterdir()] == ["turns.json"]
    (first, second), turns = rows(99)
    assert turns == ["float", "w4a4", "float", *3 * ["w4a4", "float"]]
    # w4a4's three turns at 5 frames were the 1st and 3rd before, and the 2nd after, the interruption; and so on.
    assert (first["latency_s"], first["baseline_latency_s"], first["peak_bytes"]) == (2, 2, 3)
    assert (second["latency_s"], second["baseline_latency_s"], second["peak_bytes"]) == (6, 7, 8)
    assert not any(journal.parent.iterdir())

    for change in ({"threads": 1}, {"size": 2}, {"code": "another"}):
        with pytest.raises(KeyboardInterrupt):
            rows(3)
        with monkeypatch.context() as changed:
            changed.setitem(sizes, "w4a4", change.get("size", 1))
            if "code" in change:
                changed.setattr(store, "code_digest", lambda *_: "another")
            assert len(rows(99, change.get("threads", 2))[1]) == 12


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"task": "x", "turns": [{}]}', '{"task": 1, "values": []}'])
def test_a_journal_is_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr(run, "_prepare", lambda *_: ([Side("w4a4", {}, 1)], {}, 1))
    (tmp_path / "notes").write_text(content)
    with pytest.raises(InputError, match="notes does not hold an interrupted benchmark; name another file"):
        all_rows(None, ["w4a4"], ["float"], SETTING, progress=False, journal=tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == content


def test_autocast_needs_more_than_float32() -> None:
    weights, setting = 4 * 10**9, Setting([4], 392, 518)
    autocast, exact = (Side(name, {}, weights).needs(4, setting) for name in ("published-bf16", "published-float32"))
    assert autocast == exact + weights // 2
