"""Peak memory of a step, against a block of known size."""

from pathlib import Path

import numpy as np
import pytest

from quantvggt.core import memory
from quantvggt.core.memory import peak_memory

SIZE = 150_000_000


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured on Linux only")
def test_what_was_taken_and_given_back_counts_and_what_was_there_does_not() -> None:
    held = np.ones(SIZE, np.uint8)
    with peak_memory() as peak:
        np.ones(SIZE, np.uint8).sum()
    with peak_memory() as nothing:
        pass
    assert held.all()
    assert peak.bytes is not None
    assert nothing.bytes is not None
    assert 0.95 * SIZE < peak.bytes < 1.5 * SIZE
    assert nothing.bytes < 0.2 * SIZE


def test_where_it_cannot_be_measured_it_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_CLEAR", tmp_path)  # a folder can't be written to
    with peak_memory() as peak:
        pass
    assert peak.bytes is None
