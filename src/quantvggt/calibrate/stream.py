"""What flows between the blocks of the trunk while they are quantized one after the other.

Only the tokens between two blocks are kept, one tensor per clip: in the model's own dtype while all of them are small,
else in bfloat16, which is 2 MB a frame for VGGT-1B at 518x392.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from quantvggt.models import VGGT
from quantvggt.models.aggregator import NUM_SPECIAL
from quantvggt.models.linear import mark_frames
from quantvggt.models.rope import RopeTables, rope_tables
from quantvggt.scenes.clip import Clip

SMALL_BYTES = 2**30

Kind = Literal["frame", "global"]


@dataclass(frozen=True)
class Place:
    """One block of the trunk: its kind, its index among that kind, and its state-dict name."""

    kind: Kind
    index: int

    @property
    def name(self) -> str:
        return f"aggregator.{self.kind}_blocks.{self.index}"


def places(model: VGGT) -> list[Place]:
    """Frame block 0, global block 0, frame block 1, ... as they run."""
    return [Place(kind, index) for index in range(model.config.depth) for kind in ("frame", "global")]


class Stream:
    """The tokens of every clip in front of one block.

    tokens: one [S, P, C] per clip on the CPU; ropes: the rotary tables that go with it. frame_tokens: P of the clip
    that a block was given last.
    """

    def __init__(self, tokens: list[Tensor], ropes: list[RopeTables]) -> None:
        self.tokens, self.ropes = tokens, ropes
        self.frame_tokens = 0

    @classmethod
    def start(cls, model: VGGT, clips: Sequence[Clip]) -> "Stream":
        """In front of the first block."""
        tokens, ropes = [], []
        for clip in clips:
            images = clip.images[None].to(model.device, model.dtype)
            tokens.append(model.aggregator.embed(images)[0].cpu())
            height, width = (side // model.config.patch_size for side in images.shape[-2:])
            head_dim = model.aggregator.head_dim
            ropes.append(rope_tables(height, width, NUM_SPECIAL, head_dim, torch.device("cpu")))
        if sum(x.nbytes for x in tokens) > SMALL_BYTES:
            tokens = [x.bfloat16() for x in tokens]
        return cls(tokens, ropes)

    def inputs(self, block: nn.Module, kind: Kind) -> Iterator[tuple[Tensor, RopeTables]]:
        """Each clip as `block` takes it, on its device and in its dtype: [S, P, C] or, global, [1, S P, C]."""
        for index in range(len(self.tokens)):
            yield self.input(index, block, kind)

    def input(self, index: int, block: nn.Module, kind: Kind) -> tuple[Tensor, RopeTables]:
        """The same for one clip; tells the block how long a frame is."""
        like = next(block.parameters())
        x, rope = self.tokens[index].to(like), self.ropes[index]
        self.frame_tokens = x.shape[1]
        mark_frames(block, self.frame_tokens)
        return as_sequence(x, kind), RopeTables(*(table.to(like.device) for table in rope))

    @torch.no_grad()
    def after(self, block: nn.Module, kind: Kind) -> "Stream":
        """Behind `block`."""
        tokens = []
        for before, (x, rope) in zip(self.tokens, self.inputs(block, kind), strict=True):
            tokens.append(block(x, rope).view(before.shape).to(before))
        return Stream(tokens, self.ropes)


def as_sequence(x: Tensor, kind: Kind) -> Tensor:
    """[S, P, C] as a frame block takes it, or [1, S P, C] for a global one."""
    return x if kind == "frame" else x.flatten(0, 1)[None]
