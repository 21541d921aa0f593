"""Work for executors, in a module that other processes and machines can import."""

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def squaring(offset: int = 0) -> Callable[[int], Any]:
    """13 fails, 7 ends the process, 50 warns, 100 says where it runs."""

    def work(task: int) -> Any:
        if task == 13:
            raise ValueError("unlucky")
        if task == 7:
            os._exit(9)
        if task == 50:
            warnings.warn("it is late", stacklevel=2)
        if task == 100:
            return os.getpid(), torch.get_num_threads()
        return task**2 + offset

    return work


def failing() -> Callable[[int], int]:
    raise OSError("no disk")


def waiting(folder: str) -> Callable[[int], int]:
    """Each task leaves a file that names its process when it starts, and waits for the file "go"."""

    def work(task: int) -> int:
        (Path(folder) / f"started-{task}-{os.getpid()}").touch()
        while not (Path(folder) / "go").exists():
            time.sleep(0.01)
        return task**2

    return work
