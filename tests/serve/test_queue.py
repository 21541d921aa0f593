"""The queue: order, bounds, ends of jobs, and what a restart finds. Its worker is a function here."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantvggt.core.errors import InputError
from quantvggt.serve.child import Broken, Died, Refused, TimedOut, Unwanted
from quantvggt.serve.limits import Limits
from quantvggt.serve.queue import Job, Jobs, QueueFull

LIMITS = Limits(queue=3, keep_seconds=60)
Do = Callable[[dict[str, Any], Callable[[], bool]], Any]


class Hands:
    """A child that does each task by `do`, in its caller's thread."""

    state, reason, starts = "ready", "", 1

    def __init__(self, do: Do) -> None:
        self.do, self.done = do, list[str]()

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass

    def call(self, task: dict[str, Any], seconds: float, wanted: Callable[[], bool], told: Any) -> Any:
        told("running", 0.5)
        result = self.do(task, wanted)
        self.done.append(task["files"][0])
        return result


def write(task: dict[str, Any], wanted: Callable[[], bool]) -> Any:
    """Done at once."""
    (Path(task["folder"]) / "result.zip").write_text("result")
    return {"of": task["files"]}


def wait(task: dict[str, Any], wanted: Callable[[], bool]) -> Any:
    """Goes on until nobody wants it."""
    while wanted():
        time.sleep(0.005)
    raise Unwanted


@contextmanager
def working(
    folder: Path | None, do: Do, limits: Limits = LIMITS, start: bool = True, model: str = "m"
) -> Iterator[Jobs]:
    jobs = Jobs(folder, Hands(do), model, limits)  # type: ignore[arg-type]
    if start:
        jobs.start()
    yield jobs
    jobs.close()


def submit(jobs: Jobs, name: str) -> Job:
    number, folder = jobs.reserve()
    (folder / name).write_text(name)
    return jobs.accept(number, [name], {})


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_jobs_are_done_in_order_and_uploads_go(tmp_path: Path) -> None:
    with working(tmp_path, write, start=False) as jobs:
        made = [submit(jobs, name) for name in "abc"]
        assert [jobs.position(job) for job in made] == [0, 1, 2]
        assert jobs.waiting() == 3
        jobs.start()
        until(lambda: all(job.ended for job in made))
        assert [job.state for job in made] == ["done"] * 3
        assert jobs.child.done == list("abc")  # type: ignore[attr-defined]
        assert made[1].result == {"of": ["b"]}
        assert (made[1].progress, made[1].attempts, jobs.position(made[1])) == (1.0, 1, None)
        assert jobs.result_of(made[1]).read_text() == "result"
        assert not (jobs.folder_of(made[1].id) / "files").exists()


def test_no_more_wait_than_may(tmp_path: Path) -> None:
    with working(tmp_path, write, start=False) as jobs:
        for name in "abc":
            jobs.check_free()
            submit(jobs, name)
        with pytest.raises(QueueFull, match="3 jobs wait already; try again later"):
            jobs.check_free()
        with pytest.raises(QueueFull):
            submit(jobs, "d")
        assert jobs.retry_after() >= 1


def test_waiting_and_running_jobs_are_cancelled(tmp_path: Path) -> None:
    with working(tmp_path, wait) as jobs:
        running, waiting = submit(jobs, "a"), submit(jobs, "b")
        until(lambda: running.state == "running")
        assert (running.stage, running.progress, jobs.position(waiting)) == ("running", 0.5, 1)
        jobs.cancel(waiting.id)
        assert waiting.state == "cancelled"
        jobs.cancel(running.id)
        assert running.state == "cancelled"
        until(lambda: running.finished)
        assert not (jobs.folder_of(running.id) / "files").exists()
        jobs.cancel(running.id)  # one that has ended goes
        assert jobs.get(running.id) is None
        assert not jobs.folder_of(running.id).exists()


def test_a_job_that_is_removed_while_it_stops_leaves_nothing(tmp_path: Path) -> None:
    stopping, go = threading.Event(), threading.Event()

    def slow_to_stop(task: dict[str, Any], wanted: Callable[[], bool]) -> Any:
        until(lambda: not wanted())
        stopping.set()
        go.wait(20)
        raise Unwanted

    with working(tmp_path, slow_to_stop) as jobs:
        job = submit(jobs, "a")
        until(lambda: job.state == "running")
        jobs.cancel(job.id)
        stopping.wait(20)
        jobs.cancel(job.id)
        go.set()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Refused("a.jpg is torn", "InputError"), "a.jpg is torn"),
        (TimedOut("it took longer"), "stopped: it took longer; send fewer or smaller frames"),
        (Died("its process ended"), "tried 3 times: its process ended; it may need more memory than there is"),
    ],
)
def test_failures_have_their_reason_and_the_next_job_is_done(tmp_path: Path, error: Exception, reason: str) -> None:
    def do(task: dict[str, Any], wanted: Callable[[], bool]) -> Any:
        if task["files"] == ["bad"]:
            raise error
        return write(task, wanted)

    with working(tmp_path, do) as jobs:
        bad, good = submit(jobs, "bad"), submit(jobs, "good")
        until(lambda: good.ended)
        assert (bad.state, good.state) == ("failed", "done")
        assert bad.reason is not None
        assert bad.reason.startswith(reason)
        assert bad.attempts == (3 if isinstance(error, Died) else 1)


def test_a_job_whose_worker_died_is_done_again_before_the_others(tmp_path: Path) -> None:
    deaths = [Died("once"), Broken("no new one at first"), Died("twice")]

    def do(task: dict[str, Any], wanted: Callable[[], bool]) -> Any:
        if deaths and task["files"] == ["a"]:
            raise deaths.pop()
        return write(task, wanted)

    with working(tmp_path, do, start=False) as jobs:
        first, second = submit(jobs, "a"), submit(jobs, "b")
        jobs.start()
        until(lambda: second.ended)
        assert (first.state, first.attempts, second.state) == ("done", 3, "done")
        assert jobs.child.done == ["a", "b"]  # type: ignore[attr-defined]


def test_results_expire(tmp_path: Path) -> None:
    with working(tmp_path, write, replace(LIMITS, keep_seconds=0.2)) as jobs:
        job = submit(jobs, "a")
        until(lambda: job.ended)
        until(lambda: jobs.get(job.id) is None)
        assert job.finished is not None
        assert time.time() - job.finished >= 0.2
        assert not jobs.folder_of(job.id).exists()


def test_a_restart_goes_on(tmp_path: Path) -> None:
    with working(tmp_path, write) as jobs:
        done = submit(jobs, "done")
        until(lambda: done.ended)
    with working(tmp_path, wait) as jobs:
        running, waiting = submit(jobs, "running"), submit(jobs, "waiting")
        until(lambda: running.state == "running")
        jobs.reserve()  # an upload that never became a job
    assert len(list(tmp_path.glob("job-*"))) == 4
    (tmp_path / "job-notes").mkdir()
    with working(tmp_path, write, start=False) as jobs:
        assert len(list(tmp_path.glob("job-*"))) == 4
        again = [jobs.get(job.id) for job in (done, running, waiting)]
        assert [job and (job.state, job.attempts) for job in again] == [("done", 1), ("queued", 0), ("queued", 0)]
        assert jobs.result_of(done).read_text() == "result"
        jobs.start()
        until(lambda: jobs.child.done == ["running", "waiting"])  # type: ignore[attr-defined]
    assert (tmp_path / "job-notes").is_dir()


def test_a_job_that_ends_the_server_is_tried_a_few_times(tmp_path: Path) -> None:
    """The whole process dies: nothing is written down any more."""
    with working(tmp_path / "a", wait, start=False) as jobs:
        job = submit(jobs, "a")
    states = []
    for attempt in range(4):
        place, copy = tmp_path / "a", tmp_path / f"killed{attempt}"
        with working(place, wait) as jobs:
            found = jobs.get(job.id)
            assert found is not None
            if found.ended:
                states.append((found.state, found.attempts, found.reason))
                break
            until(lambda: (now := jobs.get(job.id)) is not None and now.state == "running")
            shutil.copytree(place, copy)
        shutil.rmtree(place)
        copy.rename(place)
        states.append(json.loads((place / f"job-{job.id}" / "job.json").read_text())["values"]["state"])
    assert states == ["running"] * 3 + [("failed", 3, "the server ended 3 times while it ran")]


def test_jobs_of_another_model_aren_t_done_by_this_one(tmp_path: Path) -> None:
    with working(tmp_path, write, start=False, model="small") as jobs:
        job = submit(jobs, "a")
    with working(tmp_path, write, model="large") as jobs:
        found = jobs.get(job.id)
        assert found is not None
        assert found.state == "failed"
        assert found.reason == "the server was started again with another model than small; send it again"


def test_one_folder_one_server(tmp_path: Path) -> None:
    with (
        working(tmp_path, write, start=False),
        pytest.raises(InputError, match=f"another server works in {tmp_path}; name another folder"),
    ):
        Jobs(tmp_path, Hands(write), "m", LIMITS)  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write into"):
        Jobs(tmp_path / "file", Hands(write), "m", LIMITS)  # type: ignore[arg-type]


def test_without_a_folder_nothing_stays() -> None:
    with working(None, write) as jobs:
        job, folder = submit(jobs, "a"), jobs.folder
        until(lambda: job.ended)
        assert folder.is_dir()
    assert not folder.exists()
