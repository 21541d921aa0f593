"""VGGT: images in; cameras, depth, points and tracks out (arXiv 2503.11651).

State-dict keys and shapes are those of the published checkpoint.
"""

import copy
import os
from collections.abc import Callable

import torch
from torch import Tensor, nn

from quantvggt.core.errors import InputError
from quantvggt.models.quantization import Quantization
from quantvggt.models.vggt.aggregator import Aggregator
from quantvggt.models.vggt.config import VGGTConfig
from quantvggt.models.vggt.heads.camera import CameraHead
from quantvggt.models.vggt.heads.dpt import DPTHead, activate_depth, activate_points, frames_per_chunk
from quantvggt.models.vggt.heads.track import FEATURES, LEVELS, STRIDE, Tracker

MIN_TRACK_SIDE = STRIDE * 2 ** (LEVELS - 1)  # the smallest level of the correlation pyramid still has a cell


class TrackHead(nn.Module):
    """Track features by DPT, then the tracker."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.feature_extractor = DPTHead(
            2 * config.embed_dim, config.patch_size, FEATURES, config.dpt_out_channels, config.dpt_layers, None, STRIDE
        )
        self.tracker = Tracker()


class VGGT(nn.Module):
    """See `forward`. `quantization` is None for a model in full precision."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.config = config
        self.quantization: Quantization | None = None
        dim = 2 * config.embed_dim
        self.aggregator = Aggregator(config)
        if "camera" in config.heads:
            self.camera_head = CameraHead(dim, config.camera_trunk_depth, config.camera_num_heads)
        dpt = config.patch_size, config.dpt_features, config.dpt_out_channels, config.dpt_layers
        if "point" in config.heads:
            self.point_head = DPTHead(dim, *dpt, out_dim=4)
        if "depth" in config.heads:
            self.depth_head = DPTHead(dim, *dpt, out_dim=2)
        if "track" in config.heads:
            self.track_head = TrackHead(config)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that activations run in; of a mixed model (`models.mixed`) what they are summed in."""
        return self.aggregator.camera_token.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.aggregator.camera_token.device

    def sharing_copy(self) -> "VGGT":
        """A new model on the same numbers in memory; converting it or replacing its layers leaves this one alone."""
        parameters = {id(p): nn.Parameter(p.data, p.requires_grad) for p in self.parameters()}
        return copy.deepcopy(self, {**parameters, **{id(buffer): buffer.data for buffer in self.buffers()}})

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
        return self.read(tokens, images, query_points, dense_frames)

    def read(
        self,
        tokens: dict[int, Tensor],
        images: Tensor,
        query_points: Tensor | None = None,
        dense_frames: int | None = None,
    ) -> dict[str, Tensor]:
        """What the heads make of the trunk's `tokens`, {layer: [B, S, P, 2C]}; otherwise as `forward`."""
        out: dict[str, Tensor] = {}
        if "camera" in self.config.heads:
            out["pose_enc"] = self.camera_head(tokens[self.config.depth - 1][:, :, 0])[-1]
        shown = tokens if dense_frames is None else {layer: x[:, :dense_frames] for layer, x in tokens.items()}
        seen = images[:, :dense_frames]
        if "depth" in self.config.heads:
            out["depth"], out["depth_conf"] = self._dense(self.depth_head, activate_depth, shown, seen)
        if "point" in self.config.heads:
            out["world_points"], out["world_points_conf"] = self._dense(self.point_head, activate_points, shown, seen)
        if query_points is not None:
            (maps,) = self._dense(self.track_head.feature_extractor, lambda x: (x.to(self.dtype),), tokens, images)
            out["track"], out["vis"], out["conf"] = self.track_head.tracker(query_points, maps)
        return out

    def _dense(
        self,
        head: DPTHead,
        activate: Callable[[Tensor], tuple[Tensor, ...]],
        tokens: dict[int, Tensor],
        images: Tensor,
    ) -> tuple[Tensor, ...]:
        """Run a dense head a few frames at a time, writing each chunk where it belongs."""
        batch, frames, _, height, width = images.shape
        total = batch * frames
        step = total if torch.is_grad_enabled() else frames_per_chunk(height, width)
        shown = {layer: tokens[layer].flatten(0, 1) for layer in set(self.config.dpt_layers)}
        outputs: list[Tensor] = []
        for first in range(0, total, step):
            part = {layer: x[first : first + step].to(head.norm.weight.dtype) for layer, x in shown.items()}
            values = activate(head(part, height, width))
            if step >= total:
                outputs = list(values)
                break
            outputs = outputs or [value.new_empty(total, *value.shape[1:]) for value in values]
            for output, value in zip(outputs, values, strict=True):
                output[first : first + step] = value
        return tuple(output.unflatten(0, (batch, frames)) for output in outputs)

    def _check(self, images: Tensor, query_points: Tensor | None) -> tuple[Tensor, Tensor | None]:
        images = images[None] if images.ndim == 4 else images
        if images.ndim != 5 or images.shape[2] != 3 or not images.is_floating_point():
            raise InputError(f"images must be floating point [B, S, 3, H, W], got {images.dtype} {tuple(images.shape)}")
        patch = self.config.patch_size
        if images.shape[1] == 0 or min(images.shape[-2:]) < patch or any(side % patch for side in images.shape[-2:]):
            raise InputError(
                f"images need a frame or more, and sides that are multiples of {patch}; got {tuple(images.shape)}"
            )
        if query_points is not None:
            if "track" not in self.config.heads:
                raise InputError("query_points were given, but this model has no track head")
            if min(images.shape[-2:]) < MIN_TRACK_SIDE:
                raise InputError(f"tracking needs frames of {MIN_TRACK_SIDE} pixels or more each way")
            query_points = query_points[None] if query_points.ndim == 2 else query_points
            if query_points.shape[:1] + query_points.shape[2:] != (len(images), 2):
                raise InputError(f"query_points must be [{len(images)}, N, 2], got {tuple(query_points.shape)}")
        return images, query_points

    def save_pretrained(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the model as a checkpoint folder; see `quantvggt.save`."""
        import quantvggt  # the public face; models itself sits below the rooms that write files

        quantvggt.save(self, folder, overwrite=overwrite)
