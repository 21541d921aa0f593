"""Depth-Anything-3's runs of blocks: the trunk, the camera encoder."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quantvggt.models.da3.backbone import NUM_SPECIAL, Views
from quantvggt.models.da3.cameras import as_trained
from quantvggt.models.family import Part, Place
from quantvggt.nn.block import LAYERS, SWIGLU_LAYERS
from quantvggt.nn.rope import RopeTables

if TYPE_CHECKING:
    from quantvggt.models.da3.model import DA3


class Trunk(Part):
    """All blocks of the backbone, one after the other. What they need of a clip is `Views`."""

    special = NUM_SPECIAL

    def __init__(self, model: "DA3") -> None:
        self.backbone = model.backbone.pretrained
        layers = SWIGLU_LAYERS if model.config.swiglu else LAYERS
        self.places = tuple(
            Place(f"backbone.pretrained.blocks.{index}", "global" if self.backbone.sees_all(index) else "frame", layers)
            for index in range(model.config.depth)
        )

    def start(self, images: Tensor) -> tuple[Tensor, Views]:
        return self.backbone.embed(images)[0], self.backbone.views(images)

    def arguments(self, place: Place, context: Views, device: torch.device) -> tuple[Any, ...]:
        tables = self.backbone.tables(self._index(place), context)
        return () if tables is None else (RopeTables(*(table.to(device) for table in tables)),)

    def before(self, place: Place, tokens: Tensor, context: Views) -> Tensor:
        return self.backbone.before(self._index(place), tokens[None], context)[0]

    def _index(self, place: Place) -> int:
        return int(place.name.rpartition(".")[2])


class Encoder(Part):
    """The camera encoder's: tokens [1, S, C] of the cameras that the model sees in a clip, as if they were given."""

    special = 0

    def __init__(self, model: "DA3") -> None:
        self.model = model
        layers = range(len(model.cam_enc.trunk))
        self.places = tuple(Place(f"cam_enc.trunk.{index}") for index in layers)

    def start(self, images: Tensor) -> tuple[Tensor, None]:
        answers = self.model.read(self.model.encode(images), images, heads=("camera",))
        assert answers.extrinsics is not None
        assert answers.intrinsics is not None
        seen = as_trained(answers.extrinsics[0])[None]
        return self.model.cam_enc.start(seen, answers.intrinsics, *images.shape[-2:]), None
