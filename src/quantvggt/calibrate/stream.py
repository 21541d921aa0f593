"""What flows between the blocks of a part of the model while they are quantized one after the other.

Only the tokens between two blocks are kept, one tensor per clip: in the model's own dtype while all of them are small,
else in bfloat16, which is 2 MB a frame for VGGT-1B at 518x392.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantvggt.models import Model
from quantvggt.models.family import Part, Place, as_sequence
from quantvggt.nn.quant_linear import mark_frames
from quantvggt.scenes.clip import Clip

SMALL_BYTES = 2**30


class Stream:
    """The tokens of every clip in front of one block of `part`.

    tokens: one [S, P, C] per clip on the CPU; contexts: what else the part's blocks need to know of it. frame_tokens: P
    of the clip that a block was given last.
    """

    def __init__(self, part: Part, tokens: list[Tensor], contexts: Sequence[Any]) -> None:
        if sum(x.nbytes for x in tokens) > SMALL_BYTES:
            tokens = [x.bfloat16() for x in tokens]
        self.part, self.tokens, self.contexts = part, tokens, contexts
        self.frame_tokens = 0

    @classmethod
    def start(cls, part: Part, model: Model, clips: Sequence[Clip]) -> "Stream":
        """In front of the first block of one of the model's parts."""
        starts = [part.start(clip.images[None].to(model.device, model.dtype)) for clip in clips]
        return cls(part, [tokens.cpu() for tokens, _ in starts], [context for _, context in starts])

    @property
    def special(self) -> int:
        """How many of a frame's tokens, its first ones, are special."""
        return self.part.special

    def inputs(self, block: nn.Module, place: Place) -> Iterator[tuple[Tensor, ...]]:
        """What `block` at `place` takes for each clip, on its device and in its dtype: [S, P, C] or, global,
        [1, S P, C], and the part's other arguments."""
        for index in range(len(self.tokens)):
            yield self.input(index, block, place)

    def input(self, index: int, block: nn.Module, place: Place) -> tuple[Tensor, ...]:
        """The same for one clip; tells the block how long a frame is."""
        like, context = next(block.parameters()), self.contexts[index]
        x = self.part.before(place, self.tokens[index].to(like), context)
        self.frame_tokens = x.shape[1]
        mark_frames(block, self.frame_tokens, self.special)
        return as_sequence(x, place.kind), *self.part.arguments(place, context, like.device)

    @torch.no_grad()
    def after(self, block: nn.Module, place: Place) -> "Stream":
        """Behind `block`."""
        tokens = []
        for before, inputs in zip(self.tokens, self.inputs(block, place), strict=True):
            tokens.append(block(*inputs).view(before.shape).to(before))
        return Stream(self.part, tokens, self.contexts)
