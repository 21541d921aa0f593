"""A process that may die: results, errors, limits and ends of it reach the parent, and the next task is done."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from quantvggt.serve import child as module
from quantvggt.serve.child import Broken, Child, Died, Refused, TimedOut, Unwanted

sys.path.insert(0, str(Path(__file__).parent))  # spawned processes get it from here

from children import never_starts, obeys, starts_at_the_second_try


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    one = Child(obeys, memory=2**30, patience=0.01)
    yield one
    one.close()


ADD = {"do": "add", "values": [1, 2, 3]}


def test_one_process_does_task_after_task(child: Child) -> None:
    told: list[tuple[str, float]] = []
    first = child.call(ADD, 30, told=lambda *words: told.append(words))
    assert first["sum"] == 6
    assert told == [("adding", 0.5)]
    assert first["pid"] == child.call(ADD, 30)["pid"] == child.pid != os.getpid()
    assert child.state == "ready"


def test_errors_are_told_in_one_line(child: Child) -> None:
    starts = child.starts
    with pytest.raises(Refused, match=r"^not this one$") as refused:
        child.call({"do": "refuse"}, 30)
    assert refused.value.kind == "InputError"
    with pytest.raises(Refused, match=r"^KeyError: 'surprise'$"):
        child.call({"do": "fail"}, 30)
    with pytest.raises(Refused, match="isn't enough memory for it; send fewer frames"):
        child.call({"do": "allocate", "bytes": 2**31}, 30)
    assert child.call(ADD, 30)["sum"] == 6
    assert child.starts == starts


def test_its_stdout_is_kept_from_ours_and_surprises_are_logged(capfd: pytest.CaptureFixture[str]) -> None:
    one = Child(obeys)
    one.call({"do": "print"}, 30)
    with pytest.raises(Refused):
        one.call({"do": "fail"}, 30)
    one.close()
    output = capfd.readouterr()
    assert output.out == ""
    assert "a word on stdout" in output.err
    assert "Traceback" in output.err


@pytest.mark.parametrize(("do", "how"), [("die", "killed by SIGKILL"), ("exit", "exit code 3")])
def test_after_its_death_there_is_another(child: Child, do: str, how: str) -> None:
    with pytest.raises(Died, match=f"its process ended .{how}."):
        child.call({"do": do}, 30)
    assert how in child.reason
    assert child.call(ADD, 30)["sum"] == 6


def test_a_death_between_two_tasks_is_noticed(child: Child) -> None:
    before = child.call(ADD, 30)["pid"]
    os.kill(before, signal.SIGKILL)
    while child._process is not None and child._process.is_alive():
        time.sleep(0.01)
    assert child.call(ADD, 30)["pid"] != before


def test_a_task_that_takes_too_long_is_ended(child: Child) -> None:
    with pytest.raises(TimedOut, match=r"longer than the 0.2 seconds"):
        child.call({"do": "work"}, 0.2)
    assert child.call(ADD, 30)["sum"] == 6


def test_an_unwanted_task_stops_and_the_process_stays(child: Child) -> None:
    pid, asked = child.call(ADD, 30)["pid"], []
    with pytest.raises(Unwanted):
        child.call({"do": "work"}, 30, wanted=lambda: bool(asked.append(1)) or len(asked) < 3)
    with pytest.raises(Unwanted):  # done already, but nobody wants it
        child.call(ADD, 30, wanted=lambda: False)
    assert child.call(ADD, 30)["pid"] == pid


def test_one_that_doesn_t_stop_is_ended(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.2)
    pid = child.call(ADD, 30)["pid"]
    with pytest.raises(Unwanted):
        child.call({"do": "hang"}, 30, wanted=lambda: False)
    assert child.call(ADD, 30)["pid"] != pid


def test_what_fails_at_its_start_is_told_and_tried_again(tmp_path: Path) -> None:
    one = Child(never_starts, patience=0.01)
    for _ in range(2):
        with pytest.raises(Broken, match=r"^no such model$"):
            one.call(ADD, 30)
    assert (one.state, one.reason, one.starts, one.pid) == ("stopped", "no such model", 2, None)
    other = Child(partial(starts_at_the_second_try, str(tmp_path / "marker")), patience=0.01)
    with pytest.raises(Broken, match="exit code 1"):
        other.start()
    assert other.call(ADD, 30)["sum"] == 6
    other.close()


def test_starts_after_failures_wait_longer_and_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    one, waited = Child(never_starts, patience=1.5), []
    monkeypatch.setattr(one._closing, "wait", waited.append)
    monkeypatch.setattr(one, "_receive", lambda *_: ("broken", {"reason": "no such model"}))
    for _ in range(4):
        with pytest.raises(Broken):
            one.start()
    assert waited == [0.5, 1.0, 1.5]


def test_closing_ends_what_is_under_way() -> None:
    one, raised = Child(obeys), list[Exception]()

    def call() -> None:
        try:
            one.call({"do": "hang"}, 60)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    while one.state != "busy":
        time.sleep(0.01)
    one.close()
    thread.join(10)
    assert isinstance(raised[0], Died | Broken)
    with pytest.raises(Broken, match="closed"):
        one.call(ADD, 30)
