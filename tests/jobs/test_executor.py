"""Tasks done here, by processes, by a cluster: each is done once, and what goes wrong costs one task."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clusters import cluster_of
from quantvggt.core.errors import InputError, QuantVGGTError
from quantvggt.jobs import cluster as cluster_module
from quantvggt.jobs.cluster import Cluster
from quantvggt.jobs.contract import Executor, Outcome
from quantvggt.jobs.executor import Here, Place
from quantvggt.jobs.workers import Workers
from tasks import failing, squaring, waiting

PLACES = {"here": Place(threads=1), "workers": Place(1, threads=1)}


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[tuple[Any, list[Any]]]:
    with cluster_of({"num_cpus": 1}, {"num_cpus": 1}) as started:
        yield started


@pytest.fixture(params=["here", "workers", pytest.param("cluster", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param in PLACES:
        return PLACES[request.param]
    started, _ = request.getfixturevalue("two_nodes")
    return Place(ray=started.address, threads=1)


def named(tasks: Iterable[int]) -> Iterator[tuple[str, int]]:
    return ((str(task), task) for task in tasks)


def test_every_task_is_done_and_failures_are_outcomes(place: Place) -> None:
    with place.open(partial(squaring, 1), 4) as executor:
        outcomes = sorted(executor.run(named([3, 13, 4, 5])), key=lambda outcome: int(outcome.name))
    assert [(each.name, each.result) for each in outcomes] == [("3", 10), ("4", 17), ("5", 26), ("13", None)]
    assert outcomes[-1].error.startswith("ValueError: unlucky\nTraceback")
    assert outcomes[-1].reason == "ValueError: unlucky"
    assert not any(outcome.error for outcome in outcomes[:-1])


def test_a_cluster_of_two_nodes_gives_the_results_of_one_process(two_nodes: Any) -> None:
    with (
        Place(ray=two_nodes[0].address).open(partial(squaring, 1), 3) as executor,
        pytest.warns(UserWarning, match=r"on [\d.]+: it is late"),
    ):
        assert sorted(executor.run(named([3, 4, 50]))) == [Outcome("3", 10), Outcome("4", 17), Outcome("50", 2501)]


def test_a_setup_that_fails_is_every_tasks_outcome(place: Place) -> None:
    with place.open(failing, 2) as executor:
        outcomes = list(executor.run(named([1, 2])))
    # On a cluster it is also said where.
    assert [outcome.reason.endswith("OSError: no disk") for outcome in outcomes] == [True, True]
    assert [outcome.reason.startswith("on ") for outcome in outcomes] == 2 * [place.ray is not None]


def test_tasks_are_taken_when_something_is_free_for_them(place: Place) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[tuple[str, int]]:
        for task in range(1, 7):
            taken.append(task)
            yield str(task), task

    with place.open(squaring, 6) as executor:
        for done, _ in enumerate(executor.run(tasks())):
            assert len(taken) <= done + 1 + 2
    assert taken == [1, 2, 3, 4, 5, 6]


def test_a_place_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="workers is -1"):
        Place(-1)
    with pytest.raises(InputError, match="threads is 0"):
        Place(threads=0)


def test_only_one_process_means_this_one() -> None:
    with Place().open(squaring, 1) as executor:
        assert isinstance(executor, Here)
        assert next(executor.run(named([100]))).result[0] == os.getpid()


def test_a_process_that_dies_costs_its_task_only() -> None:
    with Workers[int](1, squaring) as workers:
        dead, alive = workers.run(named([7, 2]))
    assert (dead.name, dead.result) == ("7", None)
    assert "exit code 9" in dead.error
    assert alive == Outcome("2", 4)


def test_a_process_that_died_between_tasks_is_noticed() -> None:
    workers = Workers[int](1, squaring)

    def tasks() -> Iterator[tuple[str, int]]:
        yield "2", 2
        (process,) = workers._processes.values()
        process.kill()
        process.join()
        yield "3", 3
        yield "4", 4

    with workers:
        outcomes = list(workers.run(tasks()))
    assert [outcome.result for outcome in outcomes] == [4, None, 16]
    assert "exit code -9" in outcomes[1].error


def test_processes_are_others_with_their_threads_and_none_is_left() -> None:
    workers = Workers[int](2, squaring, threads=1)
    with workers:
        told = [outcome.result for outcome in workers.run(named([100, 100, 100]))]
        processes = list(workers._processes.values())
    assert os.getpid() not in {pid for pid, _ in told}
    assert {threads for _, threads in told} == {1}
    assert not any(process.is_alive() for process in processes)


def test_leaving_early_ends_what_is_running(tmp_path: Path) -> None:
    workers = Workers[int](2, partial(waiting, str(tmp_path)))
    with pytest.raises(KeyboardInterrupt), workers:
        list(workers.run(interrupted(tmp_path)))
    assert not any(process.is_alive() for process in workers._processes.values())


def interrupted(folder: Path) -> Iterator[tuple[str, int]]:
    yield "1", 1
    until_started(folder, 1)
    raise KeyboardInterrupt


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@contextmanager
def running(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


def until_started(folder: Path, count: int) -> list[int]:
    """Waits for so many tasks to have started; their processes."""
    while len(found := list(folder.glob("started-*"))) < count:
        time.sleep(0.01)
    return [int(file.name.split("-")[2]) for file in found]


@pytest.mark.slow
def test_a_node_that_dies_loses_nothing(tmp_path: Path) -> None:
    with cluster_of({"num_cpus": 1}, {"num_cpus": 1}) as (started, nodes):
        executor: Executor[int] = Cluster(started.address, partial(waiting, str(tmp_path)), most=2)

        def kill() -> None:
            processes = until_started(tmp_path, 2)  # each node has one
            started.remove_node(nodes[1], allow_graceful=False)
            while all(map(alive, processes)):
                time.sleep(0.01)
            (tmp_path / "go").touch()

        with executor, running(kill):
            outcomes = list(executor.run(named([1, 2, 3, 4, 5])))
    assert sorted(outcomes) == [Outcome(str(task), task**2) for task in range(1, 6)]
    again = [int(file.name.split("-")[1]) for file in tmp_path.glob("started-*")]
    assert len(again) == 6, "one of the two that ran was done again"


@pytest.mark.slow
def test_a_task_that_ends_its_workers_is_given_up(two_nodes: Any) -> None:
    with Cluster[int](two_nodes[0].address, squaring) as executor:
        outcomes = list(executor.run(named([7, 2])))
    assert [outcome.result for outcome in sorted(outcomes)] == [4, None]
    assert "3 workers were lost" in sorted(outcomes)[1].error


@pytest.mark.slow
def test_workers_have_the_threads_and_places_that_nodes_have_room_for() -> None:
    with cluster_of({"num_cpus": 0}, {"num_cpus": 5}, {"num_cpus": 2, "num_gpus": 2}) as (started, _):
        for threads, gpus, expected in ((None, 0, (2, 3)), (1, 0, (1, 7)), (5, 0, (5, 1)), (None, 1, (1, 2))):
            with Cluster[int](started.address, squaring, threads, gpus) as executor:
                assert (executor._threads, executor._places()) == expected
        with pytest.raises(InputError, match=r"no machine of the Ray cluster .* has 6 CPUs"):
            Cluster(started.address, squaring, 6)
        with pytest.raises(InputError, match=r"no machine of the Ray cluster .* has a CPU and a GPU"):
            Cluster(started.address, squaring, None, 3)


@pytest.mark.slow
def test_a_machine_with_other_code_is_refused(two_nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "code_digest", lambda: "another")
    with Cluster[int](two_nodes[0].address, squaring) as executor, pytest.raises(QuantVGGTError, match="same one on"):
        list(executor.run(named([1])))


def test_no_cluster_and_no_ray_are_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no Ray cluster at 127.0.0.1:1 \(.*refused\); start one"):
        Place(ray="127.0.0.1:1").open(squaring, 1)
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"quantvggt\[ray\]"):
        Place(ray="local").open(squaring, 1)
