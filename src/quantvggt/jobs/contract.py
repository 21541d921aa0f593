"""What every executor is: many tasks, each done once, and what goes wrong costs one task."""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

Task = TypeVar("Task")
Work = Callable[[Any], Any]
Setup = Callable[[], Work]


class Outcome(NamedTuple):
    """What became of a task: its result, or what went wrong."""

    name: str
    result: Any
    error: str = ""

    @property
    def reason(self) -> str:
        """What went wrong, in one line."""
        return self.error.partition("\n")[0]


class Executor(ABC, Generic[Task]):
    """Does tasks; a context manager that leaves nothing running behind.

    setup: is called once wherever tasks are done, and gives the function from a task to its result. What is loaded
    there, such as a model, is loaded once for many tasks. Except in this process it, the tasks and the results travel
    as pickles, so a setup is a function of a module, or a `functools.partial` of one.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    @abstractmethod
    def run(self, tasks: Iterator[tuple[str, Task]]) -> Iterator[Outcome]:
        """Do tasks, which come with a name each, in their order, several at once; yields each as it is done.

        The next one is taken from `tasks` only when something is free for it, so an iterator that ends early stops the
        work there. An exception becomes the outcome of its task.
        """

    def close(self) -> None:
        """End what still runs."""

    def __enter__(self) -> "Executor[Task]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def work_of(setup: Setup, where: str = "") -> Work:
    """What `setup` gives; if it fails, every task fails for its reason, which begins with `where`."""
    try:
        return setup()
    except Exception as error:
        reason = error
        text = f"{where}{_told(error)}"

        def fail(_: Any) -> Any:
            raise SetupError(text) from reason

        return fail


class SetupError(Exception):
    """Nothing can be done here, for the reason that it says."""


def attempt(work: Work, name: str, task: Any) -> Outcome:
    """Do a task; whatever goes wrong becomes its outcome."""
    try:
        return Outcome(name, work(task))
    except SetupError as error:
        return Outcome(name, None, f"{error}\n{traceback.format_exc()}")
    except Exception as error:
        return Outcome(name, None, f"{_told(error)}\n{traceback.format_exc()}")


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
