"""Cells in parallel: one process a core, each with one thread, because a small model leaves a second thread waiting."""

import json
import multiprocessing
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple, cast

import torch
from threadpoolctl import threadpool_limits

from quantvggt.evaluate.run import Row
from quantvggt.study.inputs import Inputs
from quantvggt.study.measure import measure
from quantvggt.study.plan import Cell
from quantvggt.study.store import Setup


class Outcome(NamedTuple):
    """What became of a cell: its row, or what went wrong."""

    cell: Cell
    row: Row | None
    error: str = ""


class Workers:
    """Processes that measure cells; a context manager that leaves none behind.

    count: processes. Each is started anew (spawn), so it holds nothing of the parent's memory.
    """

    def __init__(self, count: int, setup: Setup, folder: Path) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._count, self._arguments = count, (setup, folder)
        self._processes: dict[Connection, BaseProcess] = {}
        self._busy: dict[Connection, Cell] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for connection, process in self._processes.items():
            if connection in self._busy:
                process.terminate()
            connection.close()  # which ends the others
        for process in self._processes.values():
            process.join()

    def run(self, cells: Iterator[Cell]) -> Iterator[Outcome]:
        """Measure the cells in their order, several at once; yields each as it is done.

        The next cell is taken from `cells` only when a process is free for it, so an iterator that ends early
        stops the work there. A process that dies costs its cell only.
        """
        idle: list[Connection] = []
        busy = self._busy
        while True:
            while len(busy) < self._count and (cell := next(cells, None)) is not None:
                worker = idle.pop() if idle else self._start()
                worker.send(cell)
                busy[worker] = cell
            if not busy:
                return
            for ready in cast(Sequence[Connection], wait(list(busy))):
                cell = busy.pop(ready)
                try:
                    row, error = ready.recv()
                except (EOFError, OSError):
                    process = self._processes.pop(ready)
                    process.join()
                    yield Outcome(cell, None, f"the process that measured it ended (exit code {process.exitcode})")
                    continue
                idle.append(ready)
                yield Outcome(cell, row, error)

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, *self._arguments), daemon=True)
        process.start()
        theirs.close()
        self._processes[ours] = process
        return ours


def _work(parent: Connection, setup: Setup, folder: Path) -> None:
    """Measure what the parent sends until it goes away. Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unlike the default, it cleans up
    torch.set_num_threads(1)
    threadpool_limits(1)
    inputs = Inputs(setup, folder)
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            parent.send(attempt(parent.recv(), inputs)[1:])


def attempt(cell: Cell, inputs: Inputs) -> Outcome:
    """Measure a cell; whatever goes wrong becomes its outcome."""
    try:
        row = measure(cell, inputs)
        json.dumps(row, allow_nan=False)
        return Outcome(cell, row)
    except Exception as error:
        return Outcome(cell, None, f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
