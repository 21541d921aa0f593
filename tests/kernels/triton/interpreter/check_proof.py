"""The proof that a GPU's kernels have to pass: these do, and broken ones don't."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from quantvggt.kernels.triton import proof
from quantvggt.kernels.triton.backend import TritonAttention, TritonBackend, TritonLinear, TritonRotate

CPU = torch.device("cpu")
BACKENDS = [TritonRotate(), TritonLinear(), TritonAttention()]


def broken(run: Callable[[Any], Any], where: Callable[[Any], bool]) -> Callable[[Any], Any]:
    def wrong(step: Any) -> Any:
        result = run(step)
        if not where(step):
            return result
        first = result[0] if isinstance(result, tuple) else result
        first[..., -1] += 3
        return result

    return wrong


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.OP)
def test_the_kernels_pass_and_broken_ones_do_not(backend: TritonBackend) -> None:
    assert backend.prove(backend.run, CPU)
    assert not backend.prove(broken(backend.run, lambda step: True), CPU)


@pytest.mark.parametrize("backend", BACKENDS[:2], ids=lambda backend: backend.OP)
def test_a_broken_branch_does_not_pass(backend: TritonBackend) -> None:
    assert not backend.prove(broken(backend.run, lambda step: step.rank > 0), CPU)


def test_broken_scores_do_not_pass() -> None:
    attention = BACKENDS[2]
    assert proof.scores_agree(attention.run, CPU)
    assert not proof.scores_agree(broken(attention.run, lambda step: step.seen is not None), CPU)
