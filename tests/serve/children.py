"""What the tests' processes do; they are spawned, so these are functions of a module, without PyTorch."""

import os
import signal
import time
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from quantvggt.core.errors import InputError
from quantvggt.serve.child import Tell, Work


def obeys() -> Work:
    """A process that does as it is told."""

    def work(task: dict[str, Any], tell: Tell) -> Any:
        match task["do"]:
            case "add":
                tell("adding", 0.5)
                return {"sum": sum(task["values"]), "pid": os.getpid()}
            case "print":
                print("a word on stdout")
            case "refuse":
                raise InputError("not this one")
            case "fail":
                raise KeyError("surprise")
            case "allocate":
                return len(bytearray(task["bytes"]))
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "work":  # and say so again and again
                while True:
                    tell("working", 0.1)
                    time.sleep(0.01)
            case "hang":
                time.sleep(60)
        return None

    return work


def never_starts() -> Work:
    raise InputError("no such model")


def starts_at_the_second_try(marker: str) -> Work:
    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(1)
    return obeys()


def minds_names(model: str) -> Work:
    """The real worker, but a job with slow.png never ends, and one with slow_once.png doesn't at its first try."""
    from quantvggt.serve.worker import open_model

    return _slowed(open_model(model, "cpu", None))


def lists_files() -> Work:
    """A worker without a model; the result has the files' names."""
    return _slowed(_list)


def _list(task: dict[str, Any], tell: Tell) -> Any:
    with ZipFile(Path(task["folder"]) / "result.zip", "w") as archive:
        archive.writestr("trajectory.txt", "\n".join(task["files"]))
    return {"files": {"tum": "trajectory.txt"}}


def _slowed(do: Work) -> Work:
    def work(task: dict[str, Any], tell: Tell) -> Any:
        marker = Path(task["folder"]) / "tried"
        slow = "slow.png" in task["files"] or ("slow_once.png" in task["files"] and not marker.exists())
        marker.touch()
        while slow:
            tell("running", 0.1)
            time.sleep(0.01)
        return do(task, tell)

    return work
