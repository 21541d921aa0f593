"""A sequence of frames as overlapping runs, the next one read while somebody works on this one."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
Numbered = list[tuple[int, T]]


def windows(items: Iterable[T], size: int, overlap: int) -> Iterator[Numbered[T]]:
    """Runs of `size` items with their places, each sharing `overlap` with the one before; the last one, which ends
    where the items end, may share more. All items if there are no more than `size`. 1 <= overlap < size."""
    held: deque[tuple[int, T]] = deque(maxlen=size)
    fresh, wanted = 0, size
    for numbered in enumerate(items):
        held.append(numbered)
        fresh += 1
        if fresh == wanted:
            yield list(held)
            fresh, wanted = 0, size - overlap
    if fresh:
        yield list(held)


def how_many(count: int, size: int, overlap: int) -> int:
    """How many of them there will be."""
    return 1 if count <= size else 1 + -(-(count - size) // (size - overlap))


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, each made by a thread of its own while the one before is in use."""
    iterator = iter(items)
    end = object()
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = pool.submit(next, iterator, end)
        while (item := waiting.result()) is not end:
            waiting = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]
