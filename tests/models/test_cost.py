"""What a run takes, told from a config alone, beside what it takes."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from peaks import CASES, HEIGHT, WIDTH, peaks_of
from quantvggt.models.family import Model, build
from quantvggt.models.seeded import seeded_model


def empty(case: str) -> Model:
    with torch.device("meta"):
        return build(CASES[case][0])


@pytest.mark.parametrize("case", CASES)
def test_the_memory_that_is_told_is_enough_and_not_much_more(case: str) -> None:
    for found in peaks_of(case):
        told, peak = found["told"], found["peak"]
        if peak is None:
            pytest.skip("this system doesn't measure peaks of memory")
        assert told is not None
        assert peak <= told < 1.6 * peak, f"{found}, {told / peak:.2f} of it"


@pytest.mark.parametrize("case", CASES)
def test_more_frames_take_more_and_attention_grows_with_their_square(case: str) -> None:
    model, counts = empty(case), (1, 2, 4, 8, 16, 64, 256)
    memory = [model.working_bytes(count, HEIGHT, WIDTH) or 0 for count in counts]
    work = [model.operations(count, HEIGHT, WIDTH) or 0 for count in counts]
    assert memory[0] > 0
    assert work[0] > 0
    assert sorted(set(memory)) == memory
    each = [operations / count for operations, count in zip(work, counts, strict=True)]
    assert sorted(set(each)) == each


@pytest.mark.parametrize("case", CASES)
def test_operations_are_those_that_pytorch_counts(case: str) -> None:
    model = seeded_model(CASES[case][0]).requires_grad_(False)
    # Its own attention isn't counted on CPUs; made of products it is.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.answers(torch.rand(1, 3, 3, 112, 140))
    assert model.operations(3, 112, 140) == pytest.approx(counter.get_total_flops(), rel=0.15)


@pytest.mark.parametrize("case", CASES)
def test_fast_attention_is_less_work(case: str) -> None:
    model = empty(case)
    exact = [model.operations(count, HEIGHT, WIDTH) or 0 for count in (1, 64)]
    model.attention = "fast"
    fast = [model.operations(count, HEIGHT, WIDTH) or 0 for count in (1, 64)]
    assert fast[0] == exact[0]
    assert fast[1] < exact[1]
