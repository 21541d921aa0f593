"""Tasks shared by processes: each is done once, and what goes wrong costs one task."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from quantvggt.jobs.workers import Outcome, Workers


def squaring(offset: int = 0) -> Callable[[int], Any]:
    """13 fails, 7 ends the process, 100 says where it runs."""

    def work(task: int) -> Any:
        if task == 13:
            raise ValueError("unlucky")
        if task == 7:
            os._exit(9)
        if task == 100:
            return os.getpid(), torch.get_num_threads()
        return task**2 + offset

    return work


def failing() -> Callable[[int], int]:
    raise OSError("no disk")


@pytest.mark.parametrize("count", [0, 2])
def test_every_task_is_done_and_failures_are_outcomes(count: int) -> None:
    with Workers[int](count, partial(squaring, 1)) as workers:
        outcomes = sorted(workers.run(iter([3, 13, 4, 5])), key=lambda outcome: outcome.task)
    assert [(each.task, each.result) for each in outcomes] == [(3, 10), (4, 17), (5, 26), (13, None)]
    assert outcomes[-1].error.startswith("ValueError: unlucky\nTraceback")
    assert not any(outcome.error for outcome in outcomes[:-1])


def test_a_process_that_dies_costs_its_task_only() -> None:
    with Workers[int](1, squaring) as workers:
        dead, alive = workers.run(iter([7, 2]))
    assert (dead.task, dead.result) == (7, None)
    assert "exit code 9" in dead.error
    assert alive == Outcome(2, 4)


def test_a_process_that_died_between_tasks_is_noticed() -> None:
    def tasks() -> Iterator[int]:
        yield 2
        (process,) = workers._processes.values()
        process.kill()
        process.join()
        yield 3
        yield 4

    with Workers[int](1, squaring) as workers:
        outcomes = list(workers.run(tasks()))
    assert [outcome.result for outcome in outcomes] == [4, None, 16]
    assert "exit code -9" in outcomes[1].error


@pytest.mark.parametrize("count", [0, 1])
def test_a_setup_that_fails_is_every_tasks_outcome(count: int) -> None:
    with Workers[int](count, failing) as workers:
        outcomes = list(workers.run(iter([1, 2])))
    assert [outcome.error.partition("\n")[0] for outcome in outcomes] == 2 * ["OSError: no disk"]


def test_processes_are_others_with_one_thread_each_and_none_is_left() -> None:
    with Workers[int](2, squaring) as workers:
        told = [outcome.result for outcome in workers.run(iter([100, 100, 100]))]
        processes = list(workers._processes.values())
    assert os.getpid() not in {pid for pid, _ in told}
    assert {threads for _, threads in told} == {1}
    assert not any(process.is_alive() for process in processes)
    with Workers[int](0, squaring) as workers:
        assert next(workers.run(iter([100]))).result[0] == os.getpid()


def waiting(file: str) -> Callable[[int], None]:
    def work(task: int) -> None:
        Path(file).write_text("started")
        threading.Event().wait()

    return work


def test_leaving_early_ends_what_is_running(tmp_path: Path) -> None:
    def tasks() -> Iterator[int]:
        yield 1
        while not (tmp_path / "file").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Workers[int](2, partial(waiting, str(tmp_path / "file"))) as workers:
        list(workers.run(tasks()))
    assert not any(process.is_alive() for process in workers._processes.values())
