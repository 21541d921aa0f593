"""Tasks in parallel: local processes with one thread each, because small models leave a second thread waiting."""

import multiprocessing
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch
from threadpoolctl import threadpool_limits

Task = TypeVar("Task")
Work = Callable[[Any], Any]


class Outcome(NamedTuple):
    """What became of a task: its result, or what went wrong."""

    task: Any
    result: Any
    error: str = ""


class Workers(Generic[Task]):
    """Processes that do tasks; a context manager that leaves none behind.

    count: processes, each started anew (spawn), so that it holds nothing of the parent's memory; 0: the tasks are done
    here, one after another. setup: is called once in each process and gives the function from a task to its result;
    it, the tasks and the results travel as pickles between these processes.
    """

    def __init__(self, count: int, setup: Callable[[], Work]) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._count, self._setup = count, setup
        self._processes: dict[Connection, BaseProcess] = {}
        self._busy: dict[Connection, Task] = {}

    def __enter__(self) -> "Workers[Task]":
        return self

    def __exit__(self, *_: object) -> None:
        for connection, process in self._processes.items():
            if connection in self._busy:
                process.terminate()
            connection.close()  # which ends the others
        for process in self._processes.values():
            process.join()

    def run(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """Do the tasks in their order, several at once; yields each as it is done.

        The next one is taken from `tasks` only when a process is free for it, so an iterator that ends early stops the
        work there. An exception becomes the outcome of its task, and so does the end of a process.
        """
        if self._count == 0:
            work = _work_of(self._setup)
            with threadpool_limits(1):  # as in the processes: sums of more threads are other sums
                yield from (attempt(work, task) for task in tasks)
            return
        idle: list[Connection] = []
        busy = self._busy
        while True:
            while len(busy) < self._count and (task := next(tasks, None)) is not None:
                worker = idle.pop() if idle else self._start()
                busy[worker] = task
                with suppress(OSError):  # it has died, which is noticed below
                    worker.send(task)
            if not busy:
                return
            for ready in cast(Sequence[Connection], wait(list(busy))):
                task = busy.pop(ready)
                try:
                    result, error = ready.recv()
                except (EOFError, OSError):
                    process = self._processes.pop(ready)
                    process.join()
                    yield Outcome(task, None, f"the process that did it ended (exit code {process.exitcode})")
                    continue
                idle.append(ready)
                yield Outcome(task, result, error)

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._setup), daemon=True)
        process.start()
        theirs.close()
        self._processes[ours] = process
        return ours


def _serve(parent: Connection, setup: Callable[[], Work]) -> None:
    """Do what the parent sends until it goes away. Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unlike the default, it cleans up
    torch.set_num_threads(1)
    threadpool_limits(1)
    work = _work_of(setup)
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            parent.send(attempt(work, parent.recv())[1:])


def _work_of(setup: Callable[[], Work]) -> Work:
    """What `setup` gives; if it fails, every task fails for its reason."""
    try:
        return setup()
    except Exception as error:
        reason = error

        def fail(_: Any) -> Any:
            raise reason

        return fail


def attempt(work: Work, task: Any) -> Outcome:
    """Do a task; whatever goes wrong becomes its outcome."""
    try:
        return Outcome(task, work(task))
    except Exception as error:
        return Outcome(task, None, f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
