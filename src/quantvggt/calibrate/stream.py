"""What flows between the blocks of a part of the model while they are quantized one after the other.

Only the tokens between two blocks are kept, one tensor per clip: in the model's own dtype while all of them are small,
else in bfloat16, which is 2 MB a frame for VGGT-1B at 518x392.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from quantvggt.models import VGGT
from quantvggt.models.dino import DinoV2
from quantvggt.nn.quant_linear import NUM_SPECIAL, mark_frames
from quantvggt.nn.rope import RopeTables, rope_tables
from quantvggt.scenes.clip import Clip

SMALL_BYTES = 2**30

Kind = Literal["frame", "global"]


@dataclass(frozen=True)
class Place:
    """One transformer block: whether its attention sees one frame or all, its index, and the list it stands in.

    parent: None for the trunk's own lists.
    """

    kind: Kind
    index: int
    parent: str | None = None

    @property
    def name(self) -> str:
        """Its state-dict name."""
        return f"{self.parent or f'aggregator.{self.kind}_blocks'}.{self.index}"


def places(model: VGGT) -> list[Place]:
    """The trunk's: frame block 0, global block 0, frame block 1, ... as they run."""
    return [Place(kind, index) for index in range(model.config.depth) for kind in ("frame", "global")]


def dino_places(model: VGGT) -> list[Place]:
    """DINOv2's blocks, if that is what embeds patches."""
    dino = model.aggregator.patch_embed
    count = len(dino.blocks) if isinstance(dino, DinoV2) else 0
    return [Place("frame", index, "aggregator.patch_embed.blocks") for index in range(count)]


def camera_places(model: VGGT) -> list[Place]:
    """The camera head's blocks, if there is one."""
    count = model.config.camera_trunk_depth if "camera" in model.config.heads else 0
    return [Place("frame", index, "camera_head.trunk") for index in range(count)]


class Stream:
    """The tokens of every clip in front of one block.

    tokens: one [S, P, C] per clip on the CPU; ropes: the rotary tables that go with it, None without rotary embedding.
    special: how many of a frame's tokens, its first ones, are special. frame_tokens: P of the clip that a block was
    given last.
    """

    def __init__(self, tokens: list[Tensor], ropes: Sequence[RopeTables | None], special: int = NUM_SPECIAL) -> None:
        if sum(x.nbytes for x in tokens) > SMALL_BYTES:
            tokens = [x.bfloat16() for x in tokens]
        self.tokens, self.ropes, self.special = tokens, ropes, special
        self.frame_tokens = 0

    @classmethod
    def start(cls, model: VGGT, clips: Sequence[Clip]) -> "Stream":
        """In front of the trunk's first block."""
        tokens, ropes = [], []
        for clip in clips:
            images = clip.images[None].to(model.device, model.dtype)
            tokens.append(model.aggregator.embed(images)[0].cpu())
            height, width = (side // model.config.patch_size for side in images.shape[-2:])
            head_dim = model.aggregator.head_dim
            ropes.append(rope_tables(height, width, NUM_SPECIAL, head_dim, torch.device("cpu")))
        return cls(tokens, ropes)

    @classmethod
    def dino(cls, model: VGGT, clips: Sequence[Clip]) -> "Stream":
        """In front of DINOv2's first block."""
        dino = model.aggregator.patch_embed
        assert isinstance(dino, DinoV2)
        images = (clip.images[None].to(model.device, model.dtype) for clip in clips)
        tokens = [dino.embed(model.aggregator.normalise(each)[0]).cpu() for each in images]
        return cls(tokens, [None] * len(tokens))

    @classmethod
    def cameras(cls, model: VGGT, clips: Sequence[Clip]) -> "Stream":
        """In front of the camera head's first block: [refinements, S, 2C], as if each refinement were a frame."""
        tokens = []
        for clip in clips:
            seen: list[Tensor] = []
            handle = model.camera_head.trunk[0].register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0]))
            try:
                last = model.config.depth - 1
                kept = model.aggregator(clip.images[None].to(model.device, model.dtype), [last])
                model.camera_head(kept[last][:, :, 0])
            finally:
                handle.remove()
            tokens.append(torch.cat(seen).cpu())
        return cls(tokens, [None] * len(tokens), special=0)

    def inputs(self, block: nn.Module, kind: Kind) -> Iterator[tuple[Tensor, RopeTables | None]]:
        """Each clip as `block` takes it, on its device and in its dtype: [S, P, C] or, global, [1, S P, C]."""
        for index in range(len(self.tokens)):
            yield self.input(index, block, kind)

    def input(self, index: int, block: nn.Module, kind: Kind) -> tuple[Tensor, RopeTables | None]:
        """The same for one clip; tells the block how long a frame is."""
        like = next(block.parameters())
        x, rope = self.tokens[index].to(like), self.ropes[index]
        self.frame_tokens = x.shape[1]
        mark_frames(block, self.frame_tokens)
        turned = None if rope is None else RopeTables(*(table.to(like.device) for table in rope))
        return as_sequence(x, kind), turned

    @torch.no_grad()
    def after(self, block: nn.Module, kind: Kind) -> "Stream":
        """Behind `block`."""
        tokens = []
        for before, (x, rope) in zip(self.tokens, self.inputs(block, kind), strict=True):
            tokens.append(block(x, rope).view(before.shape).to(before))
        return Stream(tokens, self.ropes, self.special)


def as_sequence(x: Tensor, kind: Kind) -> Tensor:
    """[S, P, C] as a frame block takes it, or [1, S P, C] for a global one."""
    return x if kind == "frame" else x.flatten(0, 1)[None]
