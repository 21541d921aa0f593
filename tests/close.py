"""Comparing what models answer.

Tensors that are the same by construction (weights, integers, what the same code makes of the same numbers) are compared
by bits. Answers that went through PyTorch's float products another way are not: in which order those sum depends on the
CPU, on threads, on shapes, on whether a gradient is wanted, and on where in memory the numbers lie.
"""

from collections.abc import Mapping

from torch import Tensor

from quantvggt.models import Model

UNIT_ROUNDOFF = 2.0**-24  # of float32
TOLERANCE = 168 * UNIT_ROUNDOFF  # 1e-5


def assert_close_answers(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Assert that answers {name: tensor} differ by no more than float32 rounding makes of a whole model.

    Measured is the norm of the difference relative to that of `expected`. Each number that a model computes is rounded
    by up to 2^-24 of itself, a unit, and independent errors grow with the root of their number: a sum of a thousand
    products is off by about sqrt(1000) units, twenty layers one after the other by sqrt(20) times as much, 140 in all.
    Really, weights and images off by one unit each move the answers of the tests' models by 2 to 17 units; one layer
    more in 8 bits moves each of them by 1000 and more.

    An integer on a tie moves by a whole step for one unit in what it is rounded from, so answers of a quantized model
    stay this close only where the same code ran on the same numbers, see `in_own_memory`. Tracks stay close nowhere:
    the tracker feeds them back through sines of hundreds of radians.
    """
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert got[name].shape == value.shape, name
        assert got[name].dtype == value.dtype, name
        error = ((got[name].double() - value.double()).norm() / value.double().norm()).item()
        assert error <= TOLERANCE, f"{name} is off by {error:.1e} of its norm"


def in_own_memory(model: Model) -> Model:
    """`model`, its tensors moved to where PyTorch would put them: those of a mapped file are aligned differently."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model
