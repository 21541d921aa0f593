"""Runs of frames that overlap."""

import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest

from quantvggt.reconstruction.long.windows import ahead, how_many, windows


@pytest.mark.parametrize(("count", "size", "overlap"), [(20, 8, 2), (21, 8, 2), (8, 8, 2), (5, 8, 2), (100, 7, 6)])
def test_every_item_comes_and_neighbours_overlap(count: int, size: int, overlap: int) -> None:
    runs = [[place for place, _ in run] for run in windows(range(count), size, overlap)]
    assert len(runs) == how_many(count, size, overlap)
    assert sorted({place for run in runs for place in run}) == list(range(count))
    assert all(run == list(range(run[0], run[0] + min(size, count))) for run in runs)
    for before, after in pairwise(runs):
        assert len(set(before) & set(after)) >= overlap


def test_only_one_is_made_ahead() -> None:
    made = []
    here = threading.current_thread()

    def items() -> Iterator[int]:
        for number in range(4):
            assert threading.current_thread() is not here
            made.append(number)
            yield number

    for number in ahead(items()):
        assert len(made) <= number + 2
    assert made == [0, 1, 2, 3]


def test_what_goes_wrong_ahead_is_raised_here() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("damaged")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="damaged"):
        next(found)
