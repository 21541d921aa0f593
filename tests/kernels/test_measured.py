"""Backends in the order of their times: timed by a clock of the test's own, or chosen by times that the test names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kernel_paths import CPU
from quantvggt.kernels import measured, ops, registry, samples
from quantvggt.kernels.contract import Attention, Backend, IntLinear, RotateQuantize, Step
from quantvggt.kernels.measured import MOST_SECONDS, ROUNDS, SLOW, measure, rank
from quantvggt.models import mixed

Found = tuple[dict[str, float], list[str]]
PRODUCT = (IntLinear.OP, "8-bit weights")


class Clock:
    """Time that passes only while something runs."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, list[str]()

    def __call__(self) -> float:
        return self.now

    def run(self, name: str, *seconds: float) -> Callable[[], None]:
        """What takes these times one after the other, and the last one for ever."""
        left = list(seconds)

        def call() -> None:
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


def test_medians_without_the_first_call() -> None:
    clock = Clock()
    times = [0.09, 0.003, 0.001, 0.005, 0.002, 0.009, 0.004, 0.006]
    assert len(times) == 1 + ROUNDS
    assert measure({"a": clock.run("a", *times)}, clock) == {"a": pytest.approx(0.004)}


def test_they_take_turns() -> None:
    clock = Clock()
    measure({name: clock.run(name, 0.001) for name in "ab"}, clock)
    assert "".join(clock.calls) == "aabb" + "ab" * (ROUNDS - 1)


def test_what_is_slow_is_timed_once() -> None:
    clock = Clock()
    runs = {"quick": clock.run("quick", 0.001), "slow": clock.run("slow", SLOW * 0.00101)}
    assert measure(runs, clock) == {"quick": pytest.approx(0.001), "slow": pytest.approx(SLOW * 0.00101)}
    assert clock.calls.count("slow") == 2
    assert clock.calls.count("quick") == 1 + ROUNDS


def test_time_is_limited() -> None:
    clock = Clock()
    runs = {name: clock.run(name, MOST_SECONDS) for name in "abc"}
    assert measure(runs, clock) == {"a": pytest.approx(MOST_SECONDS), "b": None, "c": None}
    assert clock.calls == ["a", "a"]
    clock = Clock()
    measure({name: clock.run(name, MOST_SECONDS / 5) for name in "ab"}, clock)
    assert clock.now <= 2.4 * MOST_SECONDS


@pytest.mark.parametrize(
    ("times", "order"),
    [
        ({"a": 1.0, "b": 0.96}, "ab"),
        ({"a": 1.0, "b": 0.94}, "ba"),
        ({"a": 1.0, "b": 2.0, "c": 0.5}, "cab"),
        ({"a": 1.0, "b": 0.94, "c": 0.9}, "bca"),
        ({"a": 3.0, "b": 2.0, "c": 1.0}, "cba"),
        ({}, ""),
    ],
)
def test_the_order_yields_to_what_is_quicker_by_more_than_noise(times: dict[str, float], order: str) -> None:
    assert "".join(rank(times)) == order


class Toy(Backend):
    def __init__(self, name: str, digest: str = "", refuses: str | None = None) -> None:
        self.name, self._digest, self._refuses = name, digest, refuses

    def available(self, device: torch.device) -> tuple[bool, str]:
        return True, "a toy"

    def digest(self) -> str:
        return self._digest

    def accepts(self, step: Step) -> str | None:
        return self._refuses

    def run(self, step: Step) -> Any:
        return step.empty()


@pytest.fixture
def times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Found:
    """The seconds that measuring finds, to be filled in, and what was measured; a registry of references, whose cache
    is empty."""
    seconds, asked = dict[str, float](), list[str]()

    def instead(runs: dict[str, Callable[[], Any]]) -> measured.Seconds:
        asked.append(" ".join(runs))
        return {name: seconds.get(name) for name in runs}

    monkeypatch.delenv(measured.ENVIRONMENT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(measured, "measure", instead)
    monkeypatch.setattr(measured, "_known", {})
    monkeypatch.setattr(registry, "_backends", {op: rows[-1:] for op, rows in registry._backends.items()})
    monkeypatch.setattr(registry, "_forced", None)
    monkeypatch.delenv(registry.ENVIRONMENT, raising=False)
    return seconds, asked


def product() -> IntLinear:
    one = torch.ones(1)
    return IntLinear(torch.ones(1, 8, dtype=torch.int8), one, torch.ones(1, 8, dtype=torch.int8), one, None, one.dtype)


def attention(dtype: torch.dtype = torch.bfloat16) -> Attention:
    return Attention(torch.ones(1, 2, 96, dtype=dtype), 1, None, None, None, None, 0.0, None, None)


FLOATS = "float model, bfloat16 float model, float32"


def test_the_quickest_that_accepts_runs_and_is_measured_once(times: Found) -> None:
    seconds, asked = times
    for name in ("c", "b", "a"):
        registry.register(IntLinear.OP, Toy(name))
    seconds.update(a=3.0, b=2.0, c=1.0, reference=9.0)
    assert [registry.choose(product()).name for _ in range(3)] == ["c"] * 3
    assert asked == [f"a b c reference {FLOATS}"]


def test_the_reference_may_be_the_quickest(times: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, _ = times
    toy = Toy("toy")
    registry.register(Attention.OP, toy)
    seconds.update(toy=1.0, reference=0.9)
    assert registry.choose(attention()).name == "reference"
    assert registry.choose(attention(torch.float32)) is toy, "which was not measured"
    rows = {row.backend: row for row in registry.report() if (row.op, row.step) == (Attention.OP, "bfloat16")}
    assert rows["toy"].reason == "a toy; measured slower than reference"
    assert rows["reference"].chosen
    assert registry.select(Attention.OP, CPU) is toy, "whatever is quickest for some steps"
    monkeypatch.setattr(mixed, "_products_are_quick", lambda: True)
    assert mixed.is_quick(CPU)


def test_what_was_not_timed_keeps_its_place(times: Found) -> None:
    seconds, asked = times
    special = Toy("special", refuses="only what the test gives")
    for backend in (Toy("b"), special, Toy("a")):
        registry.register(IntLinear.OP, backend)
    seconds.update(a=3.0, b=2.0, reference=1.0)
    names = [backend.name for backend in measured.in_order(product(), registry._backends[IntLinear.OP])]
    assert asked == [f"a b reference {FLOATS}"]
    assert names == ["reference", "special", "b", "a"]


def test_with_one_backend_there_is_nothing_to_measure(times: Found) -> None:
    _, asked = times
    assert registry.choose(product()).name == "reference"
    registry.register(IntLinear.OP, Toy("toy", refuses="nothing"))
    assert registry.choose(product()).name == "reference"
    assert registry.times() == []
    assert asked == []


def test_who_is_forced_needs_no_measuring(times: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, asked = times
    toy = Toy("toy")
    registry.register(IntLinear.OP, toy)
    seconds.update(toy=3.0, reference=1.0)
    monkeypatch.setenv(registry.ENVIRONMENT, "toy")
    assert registry.choose(product()) is toy
    monkeypatch.delenv(registry.ENVIRONMENT)
    monkeypatch.setenv(measured.ENVIRONMENT, "0")
    assert registry.choose(product()) is toy
    assert registry.times() == []
    assert asked == []
    monkeypatch.delenv(measured.ENVIRONMENT)
    assert registry.choose(product()).name == "reference"


def kept(folder: Path) -> Path:
    (file,) = (folder / "quantvggt").glob("measured-*.json")
    return file


def test_times_outlive_the_process(times: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, asked = times
    monkeypatch.delitem(samples.SAMPLES, (IntLinear.OP, "4-bit weights"))
    registry.register(IntLinear.OP, Toy("toy"))
    registry.register(Attention.OP, Toy("toy"))
    seconds.update(toy=3.0, reference=1.0)
    for _ in range(2):
        assert registry.choose(product()).name == registry.choose(attention()).name == "reference"
        measured._known.clear()  # as another process begins
        seconds.update(toy=0.1)
    written = json.loads(kept(tmp_path).read_text())
    assert written["int_linear, 8-bit weights"]["seconds"]["toy"] == 3.0
    assert registry.times() == [
        registry.Times(*key, samples.SAMPLES[key].shape, written[", ".join(key)]["seconds"])
        for key in (PRODUCT, (Attention.OP, "bfloat16"))
    ]
    assert len(asked) == 2


@pytest.mark.parametrize("change", ["library", "torch", "processor", "backends"])
def test_another_machine_or_code_is_measured_again(times: Found, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    seconds, asked = times
    toy = Toy("toy", "first")
    registry.register(IntLinear.OP, toy)
    seconds.update(toy=3.0, reference=1.0)
    assert registry.choose(product()).name == "reference"
    seconds.update(toy=0.1, other=0.2)
    measured._known.clear()
    if change == "library":
        toy._digest = "second"
    elif change == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9")
    elif change == "processor":
        monkeypatch.setattr(measured, "processor", lambda: "another")
    else:
        registry.register(IntLinear.OP, Toy("other"))
    assert registry.choose(product()) is toy
    assert len(asked) == 2


DAMAGED = [
    "", "{", "[]", "7", '{"int_linear, 8-bit weights": 7}', '{"int_linear, 8-bit weights": {"of": {}, "seconds": {}}}',
    '{"int_linear, 8-bit weights": {"of": {"toy": "", "reference": ""}, "seconds": {"toy": "1"}}}',
    '{"int_linear, 8-bit weights": {"of": {"toy": "", "reference": ""}, "seconds": {"toy": NaN}}}',
    '{"int_linear, 8-bit weights": {"of": {"toy": "", "reference": ""}, "seconds": {"toy": -1.5}}}',
    '{"int_linear, 8-bit weights": {"of": {"toy": "", "reference": ""}, "seconds": [1.5]}}',
]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_is_measured_again(times: Found, tmp_path: Path, text: str) -> None:
    seconds, asked = times
    registry.register(IntLinear.OP, Toy("toy"))
    seconds.update(toy=3.0, reference=1.0)
    registry.choose(product())
    whole = kept(tmp_path).read_text()
    kept(tmp_path).write_text(text)
    measured._known.clear()
    assert registry.choose(product()).name == "reference"
    assert len(asked) == 2
    assert kept(tmp_path).read_text() == whole


def test_where_nothing_can_be_kept_each_process_measures(times: Found, tmp_path: Path) -> None:
    seconds, asked = times
    (tmp_path / "quantvggt").write_text("a file where the folder should be")
    registry.register(IntLinear.OP, Toy("toy"))
    seconds.update(toy=3.0, reference=1.0)
    assert [registry.choose(product()).name for _ in range(2)] == ["reference"] * 2
    assert len(asked) == 1
    measured._known.clear()
    registry.choose(product())
    assert len(asked) == 2


def test_what_runs_meanwhile_notices_nothing(times: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    def instead(runs: dict[str, Callable[[], Any]]) -> measured.Seconds:
        assert torch.get_num_threads() == 1
        assert not torch.is_autocast_enabled("cpu")
        assert not torch.is_grad_enabled()
        for run in runs.values():
            run()
        return dict.fromkeys(runs)

    monkeypatch.setattr(measured, "measure", instead)
    registry.register(RotateQuantize.OP, Toy("toy"))
    torch.set_num_threads(2)
    before = torch.random.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        ops.rotate_quantize(torch.ones(1, 8, device="cpu"), None, None, None, 8)
        assert torch.is_autocast_enabled("cpu")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("key", samples.SAMPLES, ids=", ".join)
def test_samples_are_of_their_kind_and_float_models_do_as_much(key: tuple[str, str]) -> None:
    step, floats = samples.SAMPLES[key].make()
    assert (step.OP, samples.kind_of(step)) == key
    result = registry.choose(step).run(step)
    shape = result[0].shape if isinstance(result, tuple) else result.shape
    assert all(run().shape == shape for run in floats.values())


def test_every_backend_here_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(measured.ENVIRONMENT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(measured, "_known", {})
    for times in registry.times():
        takes = [row.backend for row in registry.report() if row.op == times.op and "native" in row.reason]
        assert set(times.seconds) >= {*takes, "reference"}
        assert next(iter(times.seconds.values())) is not None
