"""VGGT's runs of blocks: DINOv2, the trunk, the camera head."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quantvggt.models.dino import DinoV2, normalise
from quantvggt.models.family import Part, Place
from quantvggt.models.vggt.aggregator import NUM_SPECIAL
from quantvggt.nn.rope import RopeTables, rope_tables

if TYPE_CHECKING:
    from quantvggt.models.vggt.model import VGGT


class Dino(Part):
    """The blocks that embed patches, where a DINOv2 does it."""

    special = NUM_SPECIAL  # a class token and four registers, as many as the trunk's

    def __init__(self, model: "VGGT") -> None:
        dino = self.of(model)
        assert dino is not None
        self.model, self.dino = model, dino
        self.places = tuple(Place(f"aggregator.patch_embed.blocks.{index}") for index in range(len(dino.blocks)))

    @staticmethod
    def of(model: "VGGT") -> DinoV2 | None:
        """The model's, if it has one."""
        embed = model.aggregator.patch_embed
        return embed if isinstance(embed, DinoV2) else None

    def start(self, images: Tensor) -> tuple[Tensor, None]:
        return self.dino.embed(normalise(images)[0]), None


class Trunk(Part):
    """Frame block 0, global block 0, frame block 1, ... What they need of a clip are its rotary tables."""

    special = NUM_SPECIAL

    def __init__(self, model: "VGGT") -> None:
        self.model = model
        self.places = tuple(
            place
            for index in range(model.config.depth)
            for place in (
                Place(f"aggregator.frame_blocks.{index}", "frame"),
                Place(f"aggregator.global_blocks.{index}", "global"),
            )
        )

    def start(self, images: Tensor) -> tuple[Tensor, RopeTables]:
        rows, columns = (side // self.model.patch_size for side in images.shape[-2:])
        tables = rope_tables(rows, columns, NUM_SPECIAL, self.model.aggregator.head_dim, torch.device("cpu"))
        return self.model.aggregator.embed(images)[0], tables

    def arguments(self, place: Place, context: RopeTables, device: torch.device) -> tuple[Any, ...]:
        return (RopeTables(*(table.to(device) for table in context)),)


class Cameras(Part):
    """The camera head's: tokens [refinements, S, 2C], as if each refinement were a frame."""

    special = 0

    def __init__(self, model: "VGGT") -> None:
        self.model = model
        self.places = tuple(Place(f"camera_head.trunk.{index}") for index in range(model.config.camera_trunk_depth))

    def start(self, images: Tensor) -> tuple[Tensor, None]:
        seen: list[Tensor] = []
        first = self.model.camera_head.trunk[0]
        handle = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            last = self.model.config.depth - 1
            self.model.camera_head(self.model.aggregator(images, [last])[last][:, :, 0])
        finally:
            handle.remove()
        return torch.cat(seen), None
