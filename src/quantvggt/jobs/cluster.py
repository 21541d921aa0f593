"""Tasks on the machines of a Ray cluster; docs/cluster.md says how to start one.

Ray (`pip install 'quantvggt[ray]'`) is imported when a cluster is asked for.
"""

import socket
import sys
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any, NamedTuple

import torch
from threadpoolctl import threadpool_limits

from quantvggt.core.errors import InputError, QuantVGGTError
from quantvggt.core.limits import usable_cpus
from quantvggt.jobs.code import code_digest
from quantvggt.jobs.contract import Executor, Outcome, Setup, Task, attempt, work_of

LOCAL = "local"
TRIES = 3
"""A task is given to another worker when the one that had it is lost, so many times in all."""
PATIENCE = 60.0
"""Seconds without any worker after which a warning says what is waited for."""


class Cluster(Executor[Task]):
    """Workers (Ray's actors) wherever the cluster has room for them; those that come back or join later are used too.

    address: "auto" (the cluster that this machine is part of), host:port, or "local" (one of this machine alone, for
    as long as the work takes). threads: CPUs of each worker; None: all that the smallest machine has, or has for each
    GPU. gpus: of each worker, None: one if there are any, and then only machines with one work. most: workers at most.
    The machines need the same quantvggt as this one, and files under the same paths. A task whose worker or machine
    dies is done again elsewhere.
    Raises InputError if Ray isn't installed, there is no such cluster, or no machine has room for a worker.
    """

    def __init__(
        self, address: str, setup: Setup, threads: int | None = None, gpus: int | None = 0, most: int = 1 << 30
    ) -> None:
        super().__init__(setup)
        self._ray = _require_ray()
        self._most, self._gpus = most, gpus or 0
        self._workers: set[Any] = set()
        self._address = address
        self._quiet = redirect_stdout(sys.stderr)  # Ray tells stdout that it has lost a machine; stdout is for results
        self._quiet.__enter__()
        try:
            _connect(self._ray, address)
            if gpus is None:
                self._gpus = int(any(has.get("GPU", 0) >= 1 for has in self._machines()))
            self._threads = threads or self._smallest()
            if not self._places():
                raise InputError(f"no machine of the Ray cluster {address} has {self._need()}; ask for less")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for worker in self._workers:
            self._ray.kill(worker)
        self._ray.shutdown()
        self._quiet.__exit__(None, None, None)

    def run(self, tasks: Iterator[tuple[str, Task]]) -> Iterator[Outcome]:
        ray, errors = self._ray, import_module("ray.exceptions")
        idle: list[Any] = []
        starting: dict[Any, Any] = {}
        busy: dict[Any, tuple[Any, _Given]] = {}
        queue = _Queue(tasks)
        lost = 0
        while True:
            while idle and (given := queue.take()) is not None:
                worker = idle.pop()
                busy[worker.do.remote(given.name, given.task)] = worker, given
            if queue.empty and not busy:
                return
            while not queue.empty and len(self._workers) < min(self._places(), self._most):
                worker = self._start()
                starting[worker.ready.remote()] = worker
            done, _ = ray.wait([*busy, *starting], num_returns=1, timeout=PATIENCE)
            if not done and not busy and not idle:
                warnings.warn(f"waiting for the Ray cluster {self._address} to have {self._need()} free", stacklevel=2)
            for reference in done:
                worker, given = busy.pop(reference, None) or (starting.pop(reference), None)
                try:
                    result = ray.get(reference)
                except (errors.RayActorError, errors.ObjectLostError) as error:
                    self._forget(worker)
                    if given is None:
                        lost += 1
                        if lost == TRIES:
                            raise QuantVGGTError(f"{lost} workers of the Ray cluster didn't start: {error}") from error
                    elif given.tries == TRIES:
                        yield Outcome(given.name, None, f"{TRIES} workers were lost while they did it: {error}")
                    else:
                        queue.give_back(given)
                    continue
                idle.append(worker)
                if given is None:
                    lost = 0
                    _check_code(*result)
                else:
                    outcome, warned = result
                    for text in warned:
                        warnings.warn(text, stacklevel=2)
                    yield outcome

    def _start(self) -> Any:
        remote = self._ray.remote(num_cpus=self._threads, num_gpus=self._gpus, max_restarts=0)(_Worker)
        worker = remote.remote(self._setup, self._threads)
        self._workers.add(worker)
        return worker

    def _forget(self, worker: Any) -> None:
        """It may only be out of reach; so that it does nothing twice, it ends."""
        self._workers.discard(worker)
        self._ray.kill(worker)

    def _machines(self) -> list[dict[str, float]]:
        """What those have that are alive, and have all that a worker needs beside CPUs."""
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return [has for has in alive if has.get("CPU", 0) >= 1 and has.get("GPU", 0) >= self._gpus]

    def _smallest(self) -> int:
        machines = self._machines()
        if not machines:
            raise InputError(f"no machine of the Ray cluster {self._address} has a CPU{' and a GPU' * self._gpus}")
        return min(max(1, int(has["CPU"] // (has["GPU"] // self._gpus if self._gpus else 1))) for has in machines)

    def _places(self) -> int:
        """How many workers there is room for."""
        wanted = {"CPU": self._threads, "GPU": self._gpus}
        return sum(
            min(int(has.get(kind, 0) // count) for kind, count in wanted.items() if count) for has in self._machines()
        )

    def _need(self) -> str:
        return f"{self._threads} CPUs" + f" and {self._gpus} GPU" * bool(self._gpus)


class _Given(NamedTuple):
    name: str
    task: Any
    tries: int = 1


class _Queue:
    """Tasks in their order, those that were lost first."""

    def __init__(self, tasks: Iterator[tuple[str, Any]]) -> None:
        self._tasks, self._again = tasks, deque[_Given]()
        self._ended = False

    @property
    def empty(self) -> bool:
        return self._ended and not self._again

    def take(self) -> _Given | None:
        if self._again:
            return self._again.popleft()
        task = None if self._ended else next(self._tasks, None)
        self._ended = task is None
        return None if task is None else _Given(*task)

    def give_back(self, given: _Given) -> None:
        self._again.append(given._replace(tries=given.tries + 1))


class _Worker:
    """Lives on one of the machines; everything it says travels as pickles."""

    def __init__(self, setup: Setup, threads: int) -> None:
        torch.set_num_threads(threads)
        threadpool_limits(threads)
        self._where = import_module("ray").util.get_node_ip_address()
        self._work = work_of(setup, f"on {self._where}: ")

    def ready(self) -> tuple[str, str]:
        return self._where, code_digest()

    def do(self, name: str, task: Any) -> tuple[Outcome, list[str]]:
        """And the warnings that it gave."""
        with warnings.catch_warnings(record=True) as given:
            outcome = attempt(self._work, name, task)
        return outcome, [f"on {self._where}: {warning.message}" for warning in given]


def _check_code(where: str, digest: str) -> None:
    if digest != code_digest():
        raise QuantVGGTError(f"{where} has another version of quantvggt; install the same one on every machine")


def _connect(ray: Any, address: str) -> None:
    options: dict[str, Any] = {"include_dashboard": False, "num_cpus": usable_cpus()}
    if address != LOCAL:
        options = {"address": address}
    try:
        if ":" in address:  # Ray itself would try for a minute
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(**options, logging_level="ERROR", log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"no Ray cluster at {address} ({reason}); start one, or use --ray {LOCAL}") from error


def _require_ray() -> Any:
    try:
        return import_module("ray")
    except ImportError as error:
        raise InputError("a Ray cluster needs Ray: pip install 'quantvggt[ray]'") from error
