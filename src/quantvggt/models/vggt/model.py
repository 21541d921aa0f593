"""VGGT: images in; cameras, depth, points and tracks out (arXiv 2503.11651).

State-dict keys and shapes are those of the published checkpoint.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from quantvggt.core.errors import InputError
from quantvggt.models.answers import Answers
from quantvggt.models.dpt import DPTHead, Layout, activate_depth, activate_points, by_chunks
from quantvggt.models.family import Model, Part
from quantvggt.models.pose import decode_pose
from quantvggt.models.vggt import cost, parts
from quantvggt.models.vggt.aggregator import NUM_SPECIAL, Aggregator
from quantvggt.models.vggt.config import VGGTConfig
from quantvggt.models.vggt.heads.camera import CameraHead
from quantvggt.models.vggt.heads.track import FEATURES, LEVELS, STRIDE, Tracker

Tokens = dict[int, Tensor]
"""{layer: [B, S, P, 2C]}, those of the trunk's layers that heads read."""
_PIECE = re.compile(r"track_head\.feature_extractor|\w+\.scratch\.\w+|\w+\.\w+")
MIN_TRACK_SIDE = STRIDE * 2 ** (LEVELS - 1)  # the smallest level of the correlation pyramid still has a cell


def _layout(config: VGGTConfig, features: int) -> Layout:
    return Layout(
        config.patch_size,
        features,
        config.dpt_out_channels,
        config.dpt_layers,
        special=NUM_SPECIAL,
        activated_skips=True,
    )


class TrackHead(nn.Module):
    """Track features by DPT, then the tracker."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.feature_extractor = DPTHead(2 * config.embed_dim, _layout(config, FEATURES), None, STRIDE)
        self.tracker = Tracker()


class VGGT(Model):
    """See `forward`."""

    config: VGGTConfig
    tells_columns = True

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__(config)
        dim = 2 * config.embed_dim
        self.aggregator = Aggregator(config)
        if "camera" in config.heads:
            self.camera_head = CameraHead(dim, config.camera_trunk_depth, config.camera_num_heads)
        layout = _layout(config, config.dpt_features)
        if "point" in config.heads:
            self.point_head = DPTHead(dim, layout, out_dim=4)
        if "depth" in config.heads:
            self.depth_head = DPTHead(dim, layout, out_dim=2)
        if "track" in config.heads:
            self.track_head = TrackHead(config)

    @property
    def image_size(self) -> int:
        return self.config.img_size

    @property
    def patch_size(self) -> int:
        return self.config.patch_size

    @property
    def heads(self) -> tuple[str, ...]:
        return self.config.heads

    @property
    def dtype(self) -> torch.dtype:
        return self.aggregator.camera_token.dtype

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
        before = (parts.Dino(self),) if parts.Dino.of(self) else ()
        after = (parts.Cameras(self),) if "camera" in self.heads else ()
        return (*before, self.trunk, *after)

    def forward(
        self, images: Tensor, query_points: Tensor | None = None, dense_frames: int | None = None
    ) -> dict[str, Tensor]:
        """Predict everything the heads know about the scene.

        images: [B, S, 3, H, W] or [S, 3, H, W], RGB in [0, 1], H and W multiples of the patch size.
        query_points: [B, N, 2] or [N, 2], x and y in pixels of frame 0; needed for tracks.
        dense_frames: depth and points of each clip's first so many frames only; None: of all frames.

        Returns float32 tensors, those whose heads exist: pose_enc [B, S, 9] (see models.pose),
        depth [B, S, H, W, 1] along the optical axis, depth_conf [B, S, H, W] >= 1,
        world_points [B, S, H, W, 3] in the first camera's frame, world_points_conf [B, S, H, W] >= 1, and with
        query points track [B, S, N, 2] in pixels, vis and conf [B, S, N] in [0, 1].
        The first camera is the world; scale is the model's own.
        Raises InputError if the shapes don't fit or tracks are asked of a model without a track head.
        """
        images, query_points = self._check(images, query_points)
        tokens = self.aggregator(images.to(self.dtype), self.config.layers_read)
        shown = None if dense_frames is None else range(dense_frames)
        return self._run_heads(tokens, images, self.heads, query_points, shown)

    def encode(self, images: Tensor) -> Tokens:
        return self.aggregator(images, {*self.config.layers_read, self.config.depth - 1})

    def collect(self, outputs: Sequence[Tensor], context: object) -> Tokens:
        kept = {*self.config.layers_read, self.config.depth - 1}
        return {layer: torch.cat(tuple(outputs[2 * layer : 2 * layer + 2]), dim=-1)[None] for layer in sorted(kept)}

    def last_output(self, features: Tokens) -> Tensor:
        return features[self.config.depth - 1]

    def read(
        self,
        features: Tokens,
        images: Tensor,
        heads: Sequence[str] | None = None,
        dense: Sequence[int] | None = None,
        queries: Tensor | None = None,
        cut: bool = True,
    ) -> Answers:
        out = self._run_heads(features, images, self.heads if heads is None else heads, queries, dense, cut)
        height, width = images.shape[-2:]
        extrinsics = intrinsics = view = None
        if "pose_enc" in out:
            extrinsics, intrinsics = decode_pose(out["pose_enc"], height, width)
            view = out["pose_enc"][..., 7:]
        return Answers(
            size=(height, width),
            extrinsics=extrinsics,
            intrinsics=intrinsics,
            view=view,
            depth=out["depth"][..., 0] if "depth" in out else None,
            depth_conf=out.get("depth_conf"),
            points=out.get("world_points"),
            points_conf=out.get("world_points_conf"),
            tracks=out.get("track"),
        )

    def _run_heads(
        self,
        tokens: Tokens,
        images: Tensor,
        heads: Sequence[str],
        queries: Tensor | None,
        dense: Sequence[int] | None,
        cut: bool = True,
    ) -> dict[str, Tensor]:
        """By the published names, see `forward`; the other arguments are those of `read`."""
        out: dict[str, Tensor] = {}
        if "camera" in heads:
            out["pose_enc"] = self.camera_head(tokens[self.config.depth - 1][:, :, 0], cut)[-1]
        shown, seen = tokens, images
        if dense is not None:
            frames = torch.tensor(dense, device=images.device)
            shown, seen = {layer: tokens[layer][:, frames] for layer in set(self.config.dpt_layers)}, images[:, frames]
        if "depth" in heads:
            out["depth"], out["depth_conf"] = self._dense(self.depth_head, activate_depth, shown, seen)
        if "point" in heads:
            out["world_points"], out["world_points_conf"] = self._dense(self.point_head, activate_points, shown, seen)
        if queries is not None and "track" in heads:
            (maps,) = self._dense(self.track_head.feature_extractor, lambda x: (x.to(self.dtype),), tokens, images)
            out["track"], out["vis"], out["conf"] = self.track_head.tracker(queries, maps)
        return out

    def _dense(
        self,
        head: DPTHead,
        activate: Callable[[Tensor], tuple[Tensor, ...]],
        tokens: dict[int, Tensor],
        images: Tensor,
    ) -> tuple[Tensor, ...]:
        height, width = images.shape[-2:]

        def run(shown: Mapping[int, Tensor]) -> tuple[Tensor, ...]:
            return activate(head({layer: x.to(head.dtype) for layer, x in shown.items()}, height, width))

        return by_chunks(run, {layer: tokens[layer] for layer in set(self.config.dpt_layers)}, height, width)

    def can_track(self, height: int, width: int) -> bool:
        return "track" in self.heads and min(height, width) >= MIN_TRACK_SIDE

    def _check(self, images: Tensor, query_points: Tensor | None) -> tuple[Tensor, Tensor | None]:
        images = self.checked(images)
        if query_points is not None:
            if "track" not in self.config.heads:
                raise InputError("query_points were given, but this model has no track head")
            if min(images.shape[-2:]) < MIN_TRACK_SIDE:
                raise InputError(f"tracking needs frames of {MIN_TRACK_SIDE} pixels or more each way")
            query_points = query_points[None] if query_points.ndim == 2 else query_points
            if query_points.shape[:1] + query_points.shape[2:] != (len(images), 2):
                raise InputError(f"query_points must be [{len(images)}, N, 2], got {tuple(query_points.shape)}")
        return images, query_points

    def left_out(self, site: str) -> bool:
        # They are 0.2% of VGGT-1B; at 8 bits they alone turn vggt-nano's cameras by 0.3 degrees.
        return site.startswith("camera_head.pose_branch.")

    def piece(self, site: str) -> str:
        part = _PIECE.match(site)
        assert part is not None, site
        return part[0]

    def heads_behind(self, sites: Sequence[str]) -> tuple[str, ...]:
        if any(site.startswith("aggregator.") for site in sites):
            return self.heads
        return tuple(head for head in self.heads if any(site.startswith(f"{head}_head.") for site in sites))

    mixes = True

    def mix(self, products: torch.dtype) -> set[str]:
        """Autocast over the trunk as in the published code, the dense heads in bfloat16 altogether; the camera head and
        the tracker stay float32: they are small, and poses in bfloat16 cost more than all the rest."""
        self.products = self.aggregator.products = products
        dense = (name for name, module in self.named_modules() if isinstance(module, DPTHead))
        trunk = (
            f"aggregator.{name}"
            for name, module in self.aggregator.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
        )
        return {
            f"{part}.{name}" for part in (*dense, *trunk) for name, _ in self.get_submodule(part).named_parameters()
        }

    def save_pretrained(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the model as a checkpoint folder; see `quantvggt.save`."""
        import quantvggt  # the public face; models itself sits below the rooms that write files

        quantvggt.save(self, folder, overwrite=overwrite)
