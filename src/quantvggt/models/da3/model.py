"""Depth-Anything-3: images, and cameras if they are known, in; cameras and depth out (arXiv 2511.10647).

State-dict keys and shapes are those of the published checkpoints, without the prefix "model." that all share.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from quantvggt.core.errors import InputError
from quantvggt.models.answers import Answers
from quantvggt.models.da3 import cost, parts
from quantvggt.models.da3.backbone import Backbone, Views
from quantvggt.models.da3.cameras import CameraDecoder, CameraEncoder, as_trained, decode
from quantvggt.models.da3.config import DA3Config
from quantvggt.models.da3.heads import ALIASES, DepthRayHead, GaussianHead, MonocularHead, far_sky
from quantvggt.models.da3.reference import find_strategy
from quantvggt.models.dino import normalise
from quantvggt.models.dpt import DPTHead, Layout, activate_depth, by_chunks
from quantvggt.models.family import Model, Part
from quantvggt.models.given import Given
from quantvggt.models.pose import compose, fields_of_view, invert, scale_between

Tokens = dict[int, Tensor]
"""{layer: [B, S, P, D]}, see `Backbone`."""
_PIECE = re.compile(r"\w+\.scratch\.\w+|\w+\.\w+")


class Wrapped(nn.Module):
    """The backbone under the name that it has in published files."""

    def __init__(self, config: DA3Config) -> None:
        super().__init__()
        self.pretrained = Backbone(config)


class DA3(Model):
    """Cameras of all frames and depth along the optical axis; a monocular model has depth alone.

    The first camera is the world, or the one that cameras given are told in; scale is the model's own, or theirs.
    """

    config: DA3Config
    preprocessing = "longest"
    takes = frozenset({"extrinsics", "intrinsics"})
    aliases = ALIASES
    tells_columns = True

    def __init__(self, config: DA3Config) -> None:
        super().__init__(config)
        layout = Layout(config.patch_size, config.features, config.out_channels, config.layers)
        self.backbone = Wrapped(config)
        if config.alternates:
            dim = 2 * config.embed_dim
            self.head: DepthRayHead | MonocularHead = DepthRayHead(dim, layout)
            self.cam_enc = CameraEncoder(config.embed_dim)
            self.cam_dec = CameraDecoder(dim)
        else:
            dim = config.embed_dim
            self.head = MonocularHead(dim, replace(layout, normalised=False, embedded=False))
        if config.gaussians:
            self.gs_head = GaussianHead(dim, replace(layout, normalised=False))

    @property
    def image_size(self) -> int:
        return self.config.picture_size

    @property
    def patch_size(self) -> int:
        return self.config.patch_size

    @property
    def heads(self) -> tuple[str, ...]:
        return ("camera", "depth") if self.config.alternates else ("depth",)

    @property
    def dtype(self) -> torch.dtype:
        return self.backbone.pretrained.cls_token.dtype

    @property
    def reference_view(self) -> str:
        """How the view is chosen whose camera the others are told from, where no cameras are given: one of
        `reference.STRATEGIES`. It may be set, and isn't saved."""
        return self.backbone.pretrained.strategy

    @reference_view.setter
    def reference_view(self, strategy: str) -> None:
        find_strategy(strategy)
        self.backbone.pretrained.strategy = strategy

    def working_bytes(self, frames: int, height: int, width: int) -> int | None:
        products = (self.products or self.dtype).itemsize
        return cost.working_bytes(self.config, frames, height, width, self.dtype.itemsize, products)

    def operations(self, frames: int, height: int, width: int) -> float | None:
        return cost.operations(self.config, frames, height, width, self.attention)

    @property
    def trunk(self) -> Part:
        return parts.Trunk(self)

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.trunk, parts.Encoder(self)) if self.config.alternates else (self.trunk,)

    def encode(self, images: Tensor, cameras: Tensor | None = None) -> Tokens:
        """cameras: the encoder's tokens [B, S, C] of given ones."""
        return self.backbone.pretrained(images, set(self.config.layers), cameras)

    def collect(self, outputs: Sequence[Tensor], context: Views) -> Tokens:
        kept: Tokens = {}
        backbone, local = self.backbone.pretrained, outputs[0]
        for index, output in enumerate(outputs):
            if index == self.config.start:
                local = backbone.before(index, local[None], context)[0]
            local = local if backbone.sees_all(index) else output
            if index in self.config.layers:
                kept[index] = (torch.cat((local, output), dim=-1) if self.config.alternates else output)[None]
        return kept

    def last_output(self, features: Tokens) -> Tensor:
        return features[self.config.layers[-1]]

    def read(
        self,
        features: Tokens,
        images: Tensor,
        heads: Sequence[str] | None = None,
        dense: Sequence[int] | None = None,
        queries: Tensor | None = None,
        cut: bool = True,
    ) -> Answers:
        heads, (height, width) = self.heads if heads is None else heads, images.shape[-2:]
        answers = Answers(size=(height, width))
        if "camera" in heads:
            pose = self.cam_dec(self.last_output(features)[:, :, 0].to(self.cam_dec.fc_t.weight.dtype))
            extrinsics, intrinsics = decode(pose, height, width)
            extrinsics = compose(extrinsics, invert(extrinsics[:, :1]))
            answers = replace(answers, extrinsics=extrinsics, intrinsics=intrinsics, view=pose[..., 7:])
        if "depth" not in heads:
            return answers
        shown = features
        if dense is not None:
            frames = torch.tensor(dense, device=images.device)
            shown = {layer: x[:, frames] for layer, x in features.items()}
        head = self.head

        def run(chunk: Mapping[int, Tensor]) -> tuple[Tensor, ...]:
            tokens = self.read_out(chunk)
            if isinstance(head, MonocularHead):
                return head.depth_and_sky(tokens, height, width)
            depth, sure = activate_depth(head(tokens, height, width))
            return depth[..., 0], sure

        first, second = by_chunks(run, shown, height, width)
        if isinstance(head, MonocularHead):
            return replace(answers, depth=far_sky(first, second))
        return replace(answers, depth=first, depth_conf=second)

    def read_out(self, features: Mapping[int, Tensor]) -> Tokens:
        """What dense heads read, in their dtype: {layer: [.., H/p * W/p, D]}."""
        return {layer: self.backbone.pretrained.read_out(x).to(self.head.dtype) for layer, x in features.items()}

    def answers_given(self, images: Tensor, given: Given, dense: Sequence[int] | None = None) -> Answers:
        if given.extrinsics is None or given.intrinsics is None:
            raise InputError(
                "Depth-Anything-3 is given whole cameras, extrinsics and intrinsics of every frame, or none"
            )
        height, width = images.shape[-2:]
        known = as_trained(given.extrinsics)[None], given.intrinsics[None]
        answers = self.read(self.encode(images, self.cam_enc(*known, height, width)), images, dense=dense)
        assert answers.extrinsics is not None
        assert answers.depth is not None
        scale = scale_between(given.extrinsics, answers.extrinsics[0]).to(answers.depth)
        return replace(
            answers,
            extrinsics=given.extrinsics[None],
            intrinsics=given.intrinsics[None],
            view=fields_of_view(given.intrinsics[None], height, width),
            depth=answers.depth / scale,
        )

    def require_takes(self, known: Collection[str]) -> None:
        if known and not self.config.alternates:
            raise InputError("a monocular Depth-Anything-3 makes no use of given cameras; leave them out")
        super().require_takes(known)

    def rays(self, features: Tokens, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the ray head makes of it, see `DepthRayHead.rays`: [B, S, 8h, 8w, 6] and [B, S, 8h, 8w]."""
        assert isinstance(self.head, DepthRayHead), "monocular models have none"
        head, size = self.head, images.shape[-2:]
        rays, sure = by_chunks(lambda chunk: head.rays(self.read_out(chunk), *size), features, *size)
        return rays, sure

    def gaussians(self, features: Tokens, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw Gaussians [B, S, H, W, 37] and how sure they are [B, S, H, W], of a model that has their head."""
        tokens = {layer: x.flatten(0, 1) for layer, x in self.read_out(features).items()}
        raw, sure = self.gs_head.gaussians(tokens, normalise(images).flatten(0, 1))
        return raw.unflatten(0, images.shape[:2]), sure.unflatten(0, images.shape[:2])

    def left_out(self, site: str) -> bool:
        return site.startswith("cam_dec.")  # it writes poses

    def piece(self, site: str) -> str:
        part = _PIECE.match(site)
        assert part is not None, site
        return part[0]

    def heads_behind(self, sites: Sequence[str]) -> tuple[str, ...]:
        if any(site.startswith("backbone.") for site in sites):
            return self.heads
        return ("depth",) if any(site.startswith("head.") for site in sites) else ()

    mixes = True

    def mix(self, products: torch.dtype) -> set[str]:
        """Autocast over the backbone as in the published code; dense heads in bfloat16 altogether, where published ones
        are float32: in small models they are a third of the work. Cameras stay float32."""
        self.products = self.backbone.pretrained.products = products
        dense = (name for name, module in self.named_modules() if isinstance(module, DPTHead))
        trunk = (
            name
            for name, module in self.named_modules()
            if name.startswith("backbone.") and isinstance(module, nn.Linear | nn.Conv2d)
        )
        return {
            f"{part}.{name}" for part in (*dense, *trunk) for name, _ in self.get_submodule(part).named_parameters()
        }
