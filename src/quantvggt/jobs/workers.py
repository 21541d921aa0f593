"""Tasks in local processes, each with threads of its own."""

import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import cast

import torch
from threadpoolctl import threadpool_limits

from quantvggt.jobs.contract import Executor, Outcome, Setup, Task, attempt, work_of


class Workers(Executor[Task]):
    """Processes that do tasks.

    count: of them, each started anew (spawn), so that it holds nothing of the parent's memory. threads: of each; small
    models leave a second one waiting. The end of a process becomes the outcome of the task that it was doing.
    """

    def __init__(self, count: int, setup: Setup, threads: int = 1) -> None:
        super().__init__(setup)
        self._context = multiprocessing.get_context("spawn")
        self._count, self._threads = count, threads
        self._processes: dict[Connection, BaseProcess] = {}
        self._busy: dict[Connection, str] = {}

    def close(self) -> None:
        for connection, process in self._processes.items():
            if connection in self._busy:
                process.terminate()
            connection.close()  # which ends the others
        for process in self._processes.values():
            process.join()

    def run(self, tasks: Iterator[tuple[str, Task]]) -> Iterator[Outcome]:
        idle: list[Connection] = []
        busy = self._busy
        while True:
            while len(busy) < self._count and (task := next(tasks, None)) is not None:
                worker = idle.pop() if idle else self._start()
                busy[worker] = task[0]
                with suppress(OSError):  # it has died, which is noticed below
                    worker.send(task)
            if not busy:
                return
            for ready in cast(Sequence[Connection], wait(list(busy))):
                name = busy.pop(ready)
                try:
                    outcome = ready.recv()
                except (EOFError, OSError):
                    process = self._processes.pop(ready)
                    process.join()
                    yield Outcome(name, None, f"the process that did it ended (exit code {process.exitcode})")
                    continue
                idle.append(ready)
                yield outcome

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._setup, self._threads), daemon=True)
        process.start()
        theirs.close()
        self._processes[ours] = process
        return ours


def _serve(parent: Connection, setup: Setup, threads: int) -> None:
    """Do what the parent sends until it goes away. Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unlike the default, it cleans up
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    work = work_of(setup)
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            parent.send(attempt(work, *parent.recv()))
