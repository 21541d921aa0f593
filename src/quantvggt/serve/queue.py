"""Jobs in the order in which they came, on disk, and the thread that has them done one after another."""

import fcntl
import re
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from quantvggt.core.errors import InputError, QuantVGGTError
from quantvggt.jobs.store import Store
from quantvggt.serve.child import Broken, Child, Died, Refused, TimedOut, Unwanted
from quantvggt.serve.limits import Limits
from quantvggt.serve.results import remove
from quantvggt.serve.worker import RESULT, UPLOADS, job_task

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
_TASK, _ENTRY, _LOCK = "quantvggt serve 1", "job.json", "lock"
_FOLDER = re.compile(r"job-([0-9a-f]{32})")
_TICK = 0.5  # seconds between two looks at what has expired, and at an idle worker


class QueueFull(QuantVGGTError):
    """As many jobs wait as may."""


@dataclass
class Job:
    """One job; times are in seconds since 1970.

    options: as `worker.job_task` takes them; result: what the worker told of it; reason: why there is none.
    """

    id: str
    model: str
    files: list[str]
    options: dict[str, Any]
    created: float = field(default_factory=time.time)
    state: str = QUEUED
    attempts: int = 0
    started: float | None = None
    finished: float | None = None
    reason: str | None = None
    result: dict[str, Any] | None = None
    stage: str | None = None
    progress: float = 0.0

    @property
    def ended(self) -> bool:
        return self.state not in (QUEUED, RUNNING)


class Jobs:
    """A queue of jobs for one model.

    folder: where they are kept, so that the next `Jobs` there goes on; None: in a temporary folder that goes with this
    one. child: the process that has the model. on_end: is told of each job that ends.
    Raises InputError if the folder can't be written, or serves somebody else.
    """

    def __init__(
        self,
        folder: Path | None,
        child: Child,
        model: str,
        limits: Limits,
        on_end: Callable[[Job], None] = lambda _: None,
    ) -> None:
        self._temporary = None
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="quantvggt-serve-")
            folder = Path(self._temporary.name)
        self.folder = folder.expanduser().resolve()
        self.model, self.limits, self.child = model, limits, child
        self._on_end = on_end
        self._lock = threading.Condition()
        self._closing = threading.Event()
        self._jobs: dict[str, Job] = {}
        self._queue: list[str] = []
        self._file = _locked(self.folder)
        self._mean_seconds = 10.0
        self._read()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._work, self._expire)]

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop; a job that runs will be done anew by the next `Jobs` in this folder."""
        self._closing.set()
        with self._lock:
            self._lock.notify_all()
        self.child.close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._file.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def reserve(self) -> tuple[str, Path]:
        """A new job's name, and the folder that its uploads go to; `accept` or `remove` of `results` ends it."""
        name = secrets.token_hex(16)
        folder = self.folder_of(name) / UPLOADS
        folder.mkdir(parents=True)
        return name, folder

    def check_free(self) -> None:
        """Raises QueueFull if no further job may wait."""
        with self._lock:
            if len(self._queue) >= self.limits.queue:
                raise QueueFull(f"{len(self._queue)} jobs wait already; try again later")

    def accept(self, name: str, files: list[str], options: dict[str, Any]) -> Job:
        """From here on it will be done. Raises QueueFull, or InputError if it can't be written down."""
        with self._lock:
            self.check_free()
            job = Job(name, self.model, files, options)
            self._write(job)
            self._jobs[name] = job
            self._queue.append(name)
            self._lock.notify_all()
            return job

    def get(self, name: str) -> Job | None:
        """The job as it is at this moment."""
        with self._lock:
            job = self._jobs.get(name)
            return None if job is None else replace(job)

    def position(self, job: Job) -> int | None:
        """How many jobs come before it, the one that runs included; None if it doesn't wait."""
        with self._lock:
            if job.id not in self._queue:
                return None
            return self._queue.index(job.id) + any(each.state == RUNNING for each in self._jobs.values())

    def waiting(self) -> int:
        """How many jobs wait."""
        with self._lock:
            return len(self._queue)

    def retry_after(self) -> int:
        """Seconds after which a place in the queue should be free."""
        return max(1, round(self._mean_seconds))

    def cancel(self, name: str) -> None:
        """It won't be done, or is stopped; one that has ended goes with its result."""
        with self._lock:
            job = self._jobs.get(name)
            if job is None:
                return
            if job.ended:
                self._forget(job)
            elif job.state == QUEUED:
                self._queue.remove(job.id)
                self._end(job, CANCELLED)
            else:  # `_do` notices, and ends it when the worker has stopped
                job.state = CANCELLED
                self._save(job)

    def result_of(self, job: Job) -> Path:
        """The zip of a job that is done."""
        return self.folder_of(job.id) / RESULT

    def folder_of(self, name: str) -> Path:
        return self.folder / f"job-{name}"

    def _work(self) -> None:
        """The thread that has jobs done."""
        while not self._closing.is_set():
            with suppress(Broken):  # it said why, and is started again after a while
                self.child.start()
                if (job := self._next()) is not None:
                    self._do(job)

    def _next(self) -> Job | None:
        """The first that waits, now running; None after a moment without one."""
        with self._lock:
            if not self._queue:
                self._lock.wait(_TICK)
            if not self._queue or self._closing.is_set():
                return None
            job = self._jobs[self._queue.pop(0)]
            job.state, job.started, job.attempts = RUNNING, time.time(), job.attempts + 1
            self._save(job)
            return job

    def _do(self, job: Job) -> None:
        def wanted() -> bool:
            return job.state == RUNNING and not self._closing.is_set()

        def told(stage: str, share: float) -> None:
            job.stage, job.progress = stage, share

        task = job_task(self.folder_of(job.id), job.files, job.options)
        result, reason, again, begun = None, "", False, True
        try:
            result = self.child.call(task, self.limits.job_seconds, wanted, told)
        except Refused as error:
            reason = str(error)
        except TimedOut as error:
            reason = f"stopped: {error}; send fewer or smaller frames"
        except Died as error:
            again = job.attempts < self.limits.attempts
            reason = f"tried {job.attempts} times: {error}; it may need more memory than there is: send fewer frames"
        except Unwanted:
            again = True
        except Broken:
            again, begun = True, False
        with self._lock:
            if not begun or (self._closing.is_set() and result is None):
                job.attempts -= 1  # it isn't the job's fault
                again = True
            if job.id not in self._jobs:
                remove(self.folder_of(job.id))
            elif job.state == CANCELLED:
                self._end(job, CANCELLED)
            elif result is not None:
                job.result = result
                self._end(job, DONE)
            elif again:
                job.state, job.stage, job.progress = QUEUED, None, 0.0
                self._queue.insert(0, job.id)
                self._save(job)
            else:
                job.reason = reason
                self._end(job, FAILED)

    def _end(self, job: Job, state: str) -> None:
        remove(self.folder_of(job.id) / UPLOADS)
        job.state, job.finished = state, time.time()
        if state == DONE:
            job.stage, job.progress = None, 1.0
            self._mean_seconds += 0.3 * (job.finished - (job.started or job.finished) - self._mean_seconds)
        self._save(job)
        self._on_end(job)

    def _expire(self) -> None:
        """The thread that removes what has been kept long enough."""
        while not self._closing.wait(_TICK):
            with self._lock:
                past = time.time() - self.limits.keep_seconds
                for job in [each for each in self._jobs.values() if (each.finished or past) < past]:
                    self._forget(job)

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.id, None)
        remove(self.folder_of(job.id))

    def _write(self, job: Job) -> None:
        Store(self.folder_of(job.id), _TASK).write(_ENTRY, asdict(job))

    def _save(self, job: Job) -> None:
        """`_write`, where there is nobody who could do anything about a disk that is full."""
        try:
            self._write(job)
        except (InputError, OSError) as error:
            print(f"quantvggt serve: cannot write down that job {job.id} is {job.state}: {error}", file=sys.stderr)

    def _read(self) -> None:
        """What an earlier run left: jobs go on, uploads that never became one go."""
        for folder in self.folder.glob("job-*"):
            if (match := _FOLDER.fullmatch(folder.name)) is None:
                continue
            try:
                job = Job(**Store(folder, _TASK).read(_ENTRY))
            except TypeError:  # there is no entry, or not of today's form
                remove(folder)
                continue
            if job.id == match[1]:
                self._jobs[job.id] = job
        for job in sorted(self._jobs.values(), key=lambda each: each.created):
            if job.ended:
                job.finished = job.finished or time.time()
            elif job.model != self.model:
                job.reason = f"the server was started again with another model than {job.model}; send it again"
                self._end(job, FAILED)
            elif job.attempts >= self.limits.attempts:
                job.reason = f"the server ended {job.attempts} times while it ran"
                self._end(job, FAILED)
            else:
                job.state = QUEUED
                self._queue.append(job.id)


def _locked(folder: Path):  # type: ignore[no-untyped-def]
    """The open file that shows others that this folder is taken; the system lets go of it however we end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / _LOCK, "w")  # noqa: SIM115 - it stays open
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error.strerror}; name another folder") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise InputError(f"another server works in {folder}; name another folder") from error
    return file
