"""Which executor does the work: this process, local ones, or a Ray cluster."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

from threadpoolctl import threadpool_limits

from quantvggt.core.errors import InputError
from quantvggt.core.limits import usable_cpus
from quantvggt.jobs.cluster import Cluster
from quantvggt.jobs.contract import Executor, Outcome, Setup, Task, attempt, work_of
from quantvggt.jobs.workers import Workers


@dataclass(frozen=True)
class Place:
    """Where tasks are done.

    workers: processes of this machine, 0: none but this one; with `ray`, workers on all machines, 0: as many as have
    room. ray: the address of a cluster, see `jobs.cluster.Cluster`. threads: of each worker; None: what PyTorch has in
    this process, else an equal share of the machine. gpus: of each worker of a cluster, None: one if it has any.
    Raises InputError if a number is negative.
    """

    workers: int = 0
    ray: str | None = None
    threads: int | None = None
    gpus: int | None = 0

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise InputError(f"workers is {self.workers}; give 1 or more processes, or 0 for this one alone")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads is {self.threads}; give each worker 1 or more")

    def open(self, setup: Setup, tasks: int) -> Executor:
        """An executor for so many tasks. Raises InputError if there is no such cluster."""
        if self.ray is not None:
            most = min(tasks, self.workers or tasks)
            return Cluster(self.ray, setup, self.threads, self.gpus, most)
        if self.workers == 0:
            return Here(setup, self.threads)
        count = min(self.workers, tasks)
        return Workers(count, setup, self.threads or max(1, usable_cpus() // count))


class Here(Executor[Task]):
    """This process, one task after another. threads: None: as many as it has."""

    def __init__(self, setup: Setup, threads: int | None = None) -> None:
        super().__init__(setup)
        self._threads = threads

    def run(self, tasks: Iterator[tuple[str, Task]]) -> Iterator[Outcome]:
        work = work_of(self._setup)
        with nullcontext() if self._threads is None else threadpool_limits(self._threads):
            yield from (attempt(work, *task) for task in tasks)
