"""A process that does one task at a time and may die of it: started anew, watched, stopped from here.

What passes between the two is JSON, so that a process that strangers' files have taken over can't run code in this one.
"""

import json
import multiprocessing
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from quantvggt.core.errors import QuantVGGTError

Tell = Callable[[str, float], None]
Work = Callable[[Any, Tell], Any]
"""From a task to its result, both JSON; it tells what it is at and how far it is, often, and then may be stopped."""

TICK = 0.1  # seconds between two looks at the clock
GRACE = 5.0  # seconds that a task has to stop in when asked
START_SECONDS = 900.0  # for what is done once: a large model from a slow disk
_BACK_OFF = 0.5  # seconds before a start after a failure, doubled with each further one
_MOST_BYTES = 2**24  # of a message
_STOP = "stop"
_CLOSED = "it has been closed"
_SACRIFICE = (
    "500"  # if the system runs out of memory it ends this process rather than the server: proc(5), oom_score_adj
)


class Unwanted(Exception):
    """The task isn't wanted any more."""


class Died(QuantVGGTError):
    """The process ended before the task was done."""


class TimedOut(QuantVGGTError):
    """The task took longer than it may."""


class Broken(QuantVGGTError):
    """There is no process that could do a task: what it does at its start fails, or it has been closed."""


class Refused(QuantVGGTError):
    """The task can't be done, and will never be; says why. kind: the class of the error."""

    def __init__(self, reason: str, kind: str = "") -> None:
        super().__init__(reason)
        self.kind = kind


class Child:
    """setup: called once in the process, which is spawned; gives the function that does its tasks, and can be pickled.
    memory: bytes that its own data may take (Linux), None: no limit. patience: seconds that a start after failures
    waits at most.

    state: "stopped", "starting", "ready", "busy" or "waiting" (to be started again). reason: why it last ended or
    couldn't be started. starts: how often it was.
    """

    def __init__(self, setup: Callable[[], Work], memory: int | None = None, patience: float = 30.0) -> None:
        self._setup, self._memory, self._patience = setup, memory, patience
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._one_at_a_time = threading.RLock()
        self._closing = threading.Event()
        self._failures = 0
        self.state, self.reason, self.starts = "stopped", "", 0

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None else process.pid

    def start(self) -> None:
        """Have it ready, which after failures means to wait. Raises Broken."""
        with self._one_at_a_time:
            if self._connection is not None and self._process is not None:
                if self._process.is_alive():
                    return
                self._lost()
                self._failures += 1
            if self._failures:
                self.state = "waiting"
                self._closing.wait(min(self._patience, _BACK_OFF * 2 ** (self._failures - 1)))
            if self._closing.is_set():
                raise Broken(_CLOSED)
            self.state = "starting"
            self.starts += 1
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_main, args=(theirs, self._setup, self._memory), daemon=True)
            self._process.start()
            theirs.close()
            try:
                kind, values = self._receive(START_SECONDS, lambda: not self._closing.is_set(), lambda *_: None)
                reason = values["reason"] if kind == "broken" else ""
            except (Died, TimedOut, Unwanted) as error:
                reason = str(error) or _CLOSED
            if reason:
                self.kill()
                self._failures += 1
                self.reason = reason
                raise Broken(reason)
            self.state = "ready"

    def call(
        self,
        task: Any,
        seconds: float,
        wanted: Callable[[], bool] = lambda: True,
        told: Callable[[str, float], None] = lambda *_: None,
    ) -> Any:
        """Do a task, which is JSON; its result.

        wanted: asked again and again; when it says no, the task is stopped. told: gets what the task is at, and how
        far. Raises Refused with the task's own error; Died, TimedOut, Unwanted; Broken as `start` does.
        """
        with self._one_at_a_time:
            self.start()
            assert self._connection is not None
            self.state = "busy"
            try:
                with suppress(OSError):  # it has died, which is noticed below
                    self._connection.send_bytes(json.dumps(task).encode())
                kind, values = self._receive(seconds, wanted, told)
            except (TimedOut, Unwanted):
                self.kill()
                raise
            except Died:
                self._failures += 1
                raise
            self._failures, self.state = 0, "ready"
            if kind == "stopped" or not wanted():
                raise Unwanted
            if kind == "refused":
                raise Refused(values["reason"], values["error"])
            return values["result"]

    def kill(self) -> None:
        """End the process, whatever it does."""
        process, self._process, connection, self._connection = self._process, None, self._connection, None
        if process is not None:
            process.kill()
            process.join()
        if connection is not None:
            connection.close()
        self.state = "stopped"

    def close(self) -> None:
        """End it for good: a task that is under way elsewhere raises Died, Unwanted or Broken."""
        self._closing.set()
        process = self._process
        if process is not None:
            process.kill()
        with self._one_at_a_time:
            self.kill()

    def _receive(
        self, seconds: float, wanted: Callable[[], bool], told: Callable[[str, float], None]
    ) -> tuple[str, dict[str, Any]]:
        """The message that ends what it is at."""
        assert self._connection is not None
        deadline, asked = time.monotonic() + seconds, False
        while True:
            try:
                if self._connection.poll(TICK):
                    kind, values = json.loads(self._connection.recv_bytes(_MOST_BYTES))
                    if kind != "told":
                        return kind, values
                    told(values["stage"], values["share"])
            except (EOFError, OSError, ValueError):
                raise self._lost() from None
            if not asked and not wanted():
                asked, deadline = True, time.monotonic() + GRACE
                with suppress(OSError):
                    self._connection.send_bytes(json.dumps(_STOP).encode())
            if time.monotonic() > deadline:
                if asked:
                    raise Unwanted
                raise TimedOut(f"it took longer than the {seconds:g} seconds that there are for it")

    def _lost(self) -> Died:
        """Clear away a process that has ended."""
        process = self._process
        assert process is not None
        process.join(GRACE)
        code = process.exitcode
        self.kill()
        how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        self.reason = f"its process ended ({how})"
        return Died(self.reason)


def _main(parent: Connection, setup: Callable[[], Work], memory: int | None) -> None:
    """The process: does what the parent sends until it goes away. Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = sys.stderr
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_SACRIFICE)

    def say(kind: str, **values: Any) -> None:
        parent.send_bytes(json.dumps([kind, values]).encode())

    def tell(stage: str, share: float) -> None:
        if parent.poll():
            parent.recv_bytes()
            raise Unwanted
        say("told", stage=stage, share=share)

    with suppress(EOFError, OSError):  # the parent is gone
        try:
            work = setup()
        except Exception as error:
            say("broken", **_reason(error))
            return
        say("ready")
        while True:
            task = json.loads(parent.recv_bytes())
            if task == _STOP:  # of a task that was done before it could be stopped
                continue
            try:
                result = work(task, tell)
            except Unwanted:
                say("stopped")
            except Exception as error:
                say("refused", **_reason(error))
            else:
                say("done", result=result)


def _reason(error: Exception) -> dict[str, str]:
    """One line for people; what isn't said on purpose goes to the log as well."""
    kind, text = type(error).__name__, str(error)
    if isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text.lower():
        return {"error": kind, "reason": "there isn't enough memory for it; send fewer frames"}
    if not isinstance(error, QuantVGGTError):
        traceback.print_exception(error)
        text = f"{kind}: {text}".splitlines()[0]
    return {"error": kind, "reason": text}
