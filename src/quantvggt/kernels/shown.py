"""What of a frame other frames see, kept for each `seen` of attention: to ask a GPU for it is to wait for all that runs
there, and what is captured as a CUDA graph can't wait at all.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class Shown(NamedTuple):
    """places: of the tokens that are seen, int64 [M], in order. weights: `seen` there, float32 [M]."""

    places: Tensor
    weights: Tensor


# seen -> its version and what it shows. Held weakly: a graph may go on reading these as long as it has `seen` itself.
_known = WeakTensorKeyDictionary()


def shown(seen: Tensor) -> Shown:
    """Of `seen` [P], see `kernels.contract.Attention`. Waits for its device where nobody asked since it was written."""
    if seen.is_inference() or seen.requires_grad:
        return _find(seen)  # what is written into the former nobody counts
    version, found = _known.get(seen, (-1, None))
    if found is None or version != seen._version:
        with torch.inference_mode(False):  # who asks later may want gradients
            found = _find(seen)
        _known[seen] = seen._version, found
    return found


def moved(seen: Tensor, device: torch.device) -> Tensor:
    """`seen`, which lies on the CPU, on that device, where nobody has to wait for what it shows."""
    with torch.inference_mode(False):
        there = seen.to(device)
        _known[there] = there._version, Shown(*(part.to(device) for part in _find(seen)))
    return there


def _find(seen: Tensor) -> Shown:
    places = torch.nonzero(seen > -math.inf)[:, 0]
    return Shown(places, seen[places])
