"""How much of a tensor to work on at a time."""

from torch import Tensor

_CACHED_NUMBERS = 1 << 18


def cached_rows(x: Tensor) -> int:
    """How many rows of `x` [R, d] to take together: on a CPU what is 1 MB in float32, which stays in its cache."""
    count, d = x.shape
    return max(1, _CACHED_NUMBERS // d if x.device.type == "cpu" else count)
