"""Plain attention for training on a CPU.

torch's fused attention takes 3 to 8 times as long there in bfloat16, forward and backward, at these sizes
(8 heads of 32, 69 to 552 tokens).
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class PlainAttention(TorchFunctionMode):
    """Within this context, scaled_dot_product_attention is two matmuls and a softmax."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return attention(*args)
        return func(*args, **(kwargs or {}))


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[B, h, N, d] each -> [B, h, N, d]."""
    scores = (query * query.shape[-1] ** -0.5) @ key.mT
    return scores.softmax(-1, dtype=query.dtype) @ value
