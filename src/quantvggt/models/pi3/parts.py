"""Pi3's runs of blocks: the encoder, Pi3X's encoder of depths, the trunk, and the three decoders behind it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quantvggt.models.family import Part, Place
from quantvggt.models.pi3.conditions import NOTHING, Conditions, depth_channels
from quantvggt.nn.rope import RopeTables

if TYPE_CHECKING:
    from quantvggt.models.pi3.model import Pi3, Pi3X

SPECIAL = 5
"""A frame's first tokens: registers in the trunk and behind it; a class token and four registers in DINOv2."""


@dataclass(frozen=True)
class Context:
    """What the trunk's blocks need to know of a clip: rotary tables; rows and columns of patches; what is known."""

    rope: RopeTables
    grid: tuple[int, int]
    conditions: Conditions


class Encoder(Part):
    special = SPECIAL

    def __init__(self, model: "Pi3") -> None:
        self.model = model
        self.places = tuple(Place(f"encoder.blocks.{index}") for index in range(len(model.encoder.blocks)))

    def start(self, images: Tensor) -> tuple[Tensor, None]:
        return self.model.encoder.embed(self.model.normalise(images[0])), None


class DepthEncoder(Part):
    """Calibration images come without depths, so it sees those that the model itself finds in them."""

    special = SPECIAL

    def __init__(self, model: "Pi3X") -> None:
        self.model = model
        self.places = tuple(Place(f"depth_encoder.blocks.{index}") for index in range(len(model.depth_encoder.blocks)))

    def start(self, images: Tensor) -> tuple[Tensor, None]:
        _, found = self.model.points_of(self.model.encode(images), (images.shape[-2], images.shape[-1]))
        depth = found[0].nan_to_num(nan=0.0, posinf=0.0)
        unit = depth[depth > 0].mean().item() if (depth > 0).any() else 1.0
        return self.model.depth_encoder.embed(depth_channels(depth, unit).to(images.dtype)), None


class Trunk(Part):
    """Blocks within frames and over all frames by turns; known cameras come in before some of them."""

    special = SPECIAL

    def __init__(self, model: "Pi3") -> None:
        self.model = model
        self.places = tuple(
            Place(f"decoder.{index}", "global" if index % 2 else "frame") for index in range(model.config.depth)
        )

    def start(self, images: Tensor, conditions: Conditions = NOTHING) -> tuple[Tensor, Context]:
        size = images.shape[-2:]
        rope = self.model.rope(size, self.model.config.trunk_size, images.device)
        grid = size[0] // self.model.patch_size, size[1] // self.model.patch_size
        return self.model.embed(images[0], conditions), Context(rope, grid, conditions)

    def arguments(self, place: Place, context: Context, device: torch.device) -> tuple[Any, ...]:
        return (RopeTables(*(table.to(device) for table in context.rope)),)

    def before(self, place: Place, tokens: Tensor, context: Context) -> Tensor:
        return self.model.told(self.places.index(place), tokens, context)


class Decoder(Part):
    """Of one of the heads: frame by frame, on the ends of the trunk."""

    special = SPECIAL

    def __init__(self, model: "Pi3", name: str) -> None:
        self.model, self.decoder = model, getattr(model, name)
        self.places = tuple(Place(f"{name}.blocks.{index}") for index in range(model.config.head_depth))

    def start(self, images: Tensor) -> tuple[Tensor, RopeTables]:
        rope = self.model.rope(images.shape[-2:], self.model.config.head_size, torch.device("cpu"))
        return self.decoder.embed(self.model.encode(images)[0]), rope

    def arguments(self, place: Place, context: RopeTables, device: torch.device) -> tuple[Any, ...]:
        return (RopeTables(*(table.to(device) for table in context)),)
