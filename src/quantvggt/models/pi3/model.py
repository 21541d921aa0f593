"""Pi3 (arXiv 2507.13347) and Pi3X: images in; cameras, depth and points out, without a frame that the others refer to.

State-dict keys and shapes are those of the published checkpoints.
"""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.core.errors import InputError
from quantvggt.models.answers import Answers
from quantvggt.models.dino import IMAGENET_MEAN, IMAGENET_STD, DinoV2
from quantvggt.models.dpt import frames_per_chunk
from quantvggt.models.family import Model, Part, as_sequence
from quantvggt.models.given import Given
from quantvggt.models.pi3 import cost
from quantvggt.models.pi3.camera import CameraHead, lens, nearest_rotation
from quantvggt.models.pi3.conditions import NOTHING, Conditions, PoseBlock
from quantvggt.models.pi3.config import Pi3Config, Pi3XConfig
from quantvggt.models.pi3.heads import EPS, ConvHead, LinearHead, TokenDecoder
from quantvggt.models.pi3.metric import MetricDecoder
from quantvggt.models.pi3.parts import SPECIAL, Context, Decoder, DepthEncoder, Encoder, Trunk
from quantvggt.models.pose import compose, fields_of_view, invert, scale_between
from quantvggt.nn.block import Block, PatchEmbed
from quantvggt.nn.quant_linear import mark_frames
from quantvggt.nn.rope import RopeTables, rope_tables

LARGEST_LOG_DEPTH = 15.0  # of Pi3X


class Pi3(Model):
    """See `forward`."""

    config: Pi3Config
    image_mean: Tensor
    image_std: Tensor
    preprocessing = "area"
    tells_columns = True
    heads = ("camera", "depth", "point")
    metric: ClassVar[bool] = False
    """Does it know how large the world is?"""

    def __init__(self, config: Pi3Config) -> None:
        super().__init__(config)
        self.encoder = self._encoder(channels=3)
        self.register_token = nn.Parameter(torch.randn(1, 1, SPECIAL, config.embed_dim) * 1e-6)
        self.decoder = nn.ModuleList(
            Block(config.embed_dim, config.num_heads, qk_norm=True, eps=EPS) for _ in range(config.depth)
        )
        self.point_decoder = self._decoder(config.point_out)
        self.conf_decoder = self._decoder(config.point_out)
        self.camera_decoder = self._decoder(config.camera_out)
        self.point_head, self.conf_head = self._dense_heads()
        self.camera_head = CameraHead(config.camera_out)
        self.register_buffer("image_mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def _encoder(self, channels: int) -> DinoV2:
        config = self.config
        sizes = config.embed_dim, config.encoder_depth, config.encoder_num_heads
        return DinoV2(sizes, config.img_size, config.patch_size, channels, mask_token=False)

    def _decoder(self, out: int) -> TokenDecoder:
        config = self.config
        return TokenDecoder(2 * config.embed_dim, config.head_dim, config.head_depth, config.head_num_heads, out)

    def _dense_heads(self) -> tuple[nn.Module, nn.Module]:
        """Of points (x and y over z, and the logarithm of z) and of confidences (logits)."""
        width, patch = self.config.point_out, self.config.patch_size
        return LinearHead(width, patch, 3), LinearHead(width, patch, 1)

    # The contract's sizes, costs and blocks

    @property
    def image_size(self) -> int:
        return self.config.img_size

    @property
    def patch_size(self) -> int:
        return self.config.patch_size

    @property
    def dtype(self) -> torch.dtype:
        return self.register_token.dtype

    def working_bytes(self, frames: int, height: int, width: int) -> int | None:
        products = (self.products or self.dtype).itemsize
        return cost.working_bytes(self.config, frames, height, width, self.dtype.itemsize, products)

    def operations(self, frames: int, height: int, width: int) -> float | None:
        return cost.operations(self.config, frames, height, width, self.attention)

    @property
    def trunk(self) -> Trunk:
        return Trunk(self)

    @property
    def parts(self) -> tuple[Part, ...]:
        names = ("point_decoder", "conf_decoder", "camera_decoder")
        return (Encoder(self), self.trunk, *(Decoder(self, name) for name in names))

    def left_out(self, site: str) -> bool:
        return site.startswith("camera_head.")  # 0.2% of the model, and all that poses are made of

    def heads_behind(self, sites: Sequence[str]) -> tuple[str, ...]:
        owners = {site.partition("_")[0] for site in sites}
        if owners <= {"camera"}:
            return ("camera",)
        return ("depth", "point") if owners <= {"conf"} else self.heads  # lenses are found from points

    # From images to answers

    def forward(self, images: Tensor, conditions: Conditions = NOTHING) -> dict[str, Tensor]:
        """What the published model answers, in its own conventions and words.

        images: [B, S, 3, H, W] or [S, 3, H, W], RGB in [0, 1], H and W multiples of the patch size. conditions: of a
        Pi3X, and of each clip alike.

        Returns float32 tensors: camera_poses [B, S, 4, 4], camera to world (OpenCV); local_points and points
        [B, S, H, W, 3] in each camera's frame and in the world; conf [B, S, H, W, 1], logits; of a Pi3X also rays
        [B, S, H, W, 3], local points as unit vectors, and metric [B], what all lengths have been multiplied by. The
        world is no frame's: its axes mean nothing.
        Raises InputError if the shapes don't fit.
        """
        images = self.checked(images).to(self.dtype)
        features, size = self.encode(images, conditions), (images.shape[-2], images.shape[-1])
        metric = self.metres(features, size)[:, None, None, None]
        slopes, depth = self.points_of(features, size)
        local, poses = _local(slopes, depth * metric), _scaled(self._poses(features, size), metric)
        last = poses.new_tensor([0, 0, 0, 1]).expand(*poses.shape[:2], 1, 4)
        return {
            "points": _moved(local, poses),
            "local_points": local,
            "conf": self._logits(features, size)[..., None],
            "camera_poses": torch.cat((poses, last), dim=-2),
        } | ({"rays": F.normalize(local, dim=-1), "metric": metric.flatten()} if self.metric else {})

    def encode(self, images: Tensor, conditions: Conditions = NOTHING) -> Tensor:
        self._mark(images)
        return torch.cat([self._encode(clip, conditions) for clip in images.split(1)])

    def _mark(self, images: Tensor) -> None:
        rows, columns = (side // self.patch_size for side in images.shape[-2:])
        mark_frames(self, SPECIAL + rows * columns, SPECIAL, columns)

    def _encode(self, clip: Tensor, conditions: Conditions) -> Tensor:
        trunk = self.trunk
        x, context = trunk.start(clip, conditions)
        outputs: list[Tensor] = []
        for place, block in zip(trunk.places, self.decoder, strict=True):
            x = trunk.before(place, x, context)
            with self._autocast():
                x = block(as_sequence(x, place.kind), *trunk.arguments(place, context, x.device)).view(x.shape)
            outputs = [*outputs[-1:], x]
        return self.collect(outputs, context)

    def collect(self, outputs: Sequence[Tensor], context: object) -> Tensor:
        return torch.cat(tuple(outputs[-2:]), dim=-1)[None]

    def last_output(self, features: Tensor) -> Tensor:
        return features

    def embed(self, images: Tensor, conditions: Conditions) -> Tensor:
        """What the trunk's first block gets of images [S, 3, H, W]: registers, then the encoder's patches."""
        with self._autocast():
            patches = self.encoder(self.normalise(images))
        registers = self.register_token[0].expand(len(images), -1, -1)
        return torch.cat((registers, self.informed(patches, conditions)), dim=1)

    def normalise(self, images: Tensor) -> Tensor:
        """RGB in [0, 1] to what DINOv2 was trained on."""
        return (images - self.image_mean) / self.image_std

    def informed(self, patches: Tensor, conditions: Conditions) -> Tensor:
        """Patches [S, P, C] with what is known of their depths and rays."""
        return patches

    def told(self, index: int, tokens: Tensor, context: Context) -> Tensor:
        """Tokens [S, P, C] before the trunk's block of that index, with what is known of the cameras."""
        return tokens

    def read(
        self,
        features: Tensor,
        images: Tensor,
        heads: Sequence[str] | None = None,
        dense: Sequence[int] | None = None,
        queries: Tensor | None = None,
        cut: bool = True,
    ) -> Answers:
        """The first camera is the world. Confidences are probabilities, the logits' sigmoids."""
        self._mark(images)  # the decoders: a trunk that is replayed (`graphs`) tells them nothing
        wanted, size = set(self.heads if heads is None else heads), (images.shape[-2], images.shape[-1])
        frames = torch.tensor(range(images.shape[1]) if dense is None else dense, device=images.device)
        metric = self.metres(features, size)[:, None, None, None]
        answers: dict[str, Tensor] = {}
        slopes, depth = self.points_of(features if "camera" in wanted else features[:, frames], size)
        if "camera" in wanted:
            answers["intrinsics"] = lens(slopes)
            answers["view"] = fields_of_view(answers["intrinsics"], *size)
            slopes, depth = slopes[:, frames], depth[:, frames]
        if wanted & {"camera", "point"}:
            poses = _scaled(self._poses(features, size), metric)
            poses = compose(invert(poses[:, :1]), poses)
            if "camera" in wanted:
                answers["extrinsics"] = invert(poses)
            if "point" in wanted:
                answers["points"] = _moved(_local(slopes, depth * metric), poses[:, frames])
        if "depth" in wanted:
            answers["depth"] = depth * metric
        if wanted & {"depth", "point"}:
            sure = self._logits(features[:, frames], size).sigmoid()
            answers |= {f"{name}_conf": sure for name in ("depth", "points") if name in answers}
        return Answers(size, **answers, metric=self.metric)

    def rope(self, size: Sequence[int], dim: int, device: torch.device) -> RopeTables:
        """The tables of a frame of that size for attention heads of that width."""
        rows, columns = (side // self.patch_size for side in size)
        return rope_tables(rows, columns, SPECIAL, dim, device)

    def points_of(self, features: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """x and y over z [B, S, H, W, 2], and z [B, S, H, W], in the network's unit; float32."""
        maps = self._maps(self.point_decoder, self.point_head, features, size)
        return maps[:, :, :2].movedim(2, -1), self.depth_of(maps[:, :, 2])

    def depth_of(self, raw: Tensor) -> Tensor:
        """From what the head of points gives."""
        return raw.exp()

    def _logits(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return self._maps(self.conf_decoder, self.conf_head, features, size)[:, :, 0]

    def _maps(self, decoder: TokenDecoder, head: nn.Module, features: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, S, P, 2C] -> maps [B, S, channels, H, W] in float32; the head takes a few frames at a time."""
        with self._autocast():
            hidden = decoder(features.flatten(0, 1), self.rope(size, self.config.head_size, features.device))
        hidden = hidden[:, SPECIAL:].to(self.dtype)
        step = len(hidden) if torch.is_grad_enabled() else frames_per_chunk(*size)
        maps = torch.cat([head(some, size).float() for some in hidden.split(step)])
        return maps.unflatten(0, features.shape[:2])

    def _poses(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Camera to world [B, S, 3, 4], in the network's unit; float32."""
        rope = self.rope(size, self.config.head_size, features.device)
        nine, translation = self.camera_head(self.camera_decoder(features.flatten(0, 1), rope)[:, SPECIAL:])
        return torch.cat((nearest_rotation(nine), translation[..., None]), dim=-1).unflatten(0, features.shape[:2])

    def metres(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """How many of them the network's unit is, [B]; 1 where that isn't known."""
        return torch.ones(len(features), device=features.device)

    # Precision

    mixes = True
    _IN_16_BITS: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "point_decoder", "conf_decoder")

    def mix(self, products: torch.dtype) -> set[str]:
        """Autocast over encoders, trunk and the decoders of points and confidences; what makes cameras, or knows of
        them, the metric scale and the layers that write maps stay float32."""
        self.products = products
        return {
            f"{part}.{name}.{parameter}"
            for part in self._IN_16_BITS
            if hasattr(self, part)
            for name, module in self.get_submodule(part).named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
            for parameter, _ in module.named_parameters()
        }

    def _autocast(self) -> AbstractContextManager[object]:
        return nullcontext() if self.products is None else torch.autocast(self.device.type, self.products)


class Pi3X(Pi3):
    """A Pi3 that knows metres, has convolutional heads and can be told depths, lenses and cameras.

    Cameras that it is told are what it answers, and the world and the unit are theirs.
    """

    config: Pi3XConfig
    takes = frozenset({"extrinsics", "intrinsics", "depth"})
    metric = True

    def __init__(self, config: Pi3XConfig) -> None:
        super().__init__(config)
        dim = config.embed_dim
        self.metric_token = nn.Parameter(torch.randn(1, 1, 2 * dim) * 1e-6)
        self.metric_decoder = MetricDecoder(2 * dim, config.metric_dim, config.head_depth, config.metric_num_heads)
        self.metric_head = nn.Linear(config.metric_dim, 1)
        if config.conditions:
            self.depth_encoder = self._encoder(channels=2)
            self.depth_emb = nn.Parameter(torch.zeros(1, 1, dim))
            self.ray_embed = PatchEmbed(config.patch_size, dim, channels=2)
            self.pose_inject_blk = nn.ModuleList(PoseBlock(dim, config.num_heads) for _ in config.pose_after)

    def _dense_heads(self) -> tuple[nn.Module, nn.Module]:
        width, patch, channels = self.config.point_out, self.config.patch_size, self.config.head_channels
        return ConvHead(width, patch, channels, (2, 1)), ConvHead(width, patch, channels, (1,))

    @property
    def parts(self) -> tuple[Part, ...]:
        first, *others = super().parts
        return (first, DepthEncoder(self), *others) if self.config.conditions else (first, *others)

    def require_takes(self, known: Collection[str]) -> None:
        if known and not self.config.conditions:
            raise InputError("this Pi3X was saved without what it needs to be told cameras or depth; load a whole one")
        super().require_takes(known)

    def answers_given(self, images: Tensor, given: Given, dense: Sequence[int] | None = None) -> Answers:
        size = images.shape[-2], images.shape[-1]
        answers = self.read(self.encode(images, Conditions.of(given, size)), images, dense=dense)
        if given.intrinsics is not None:
            lenses = given.intrinsics[None]
            answers = replace(answers, intrinsics=lenses, view=fields_of_view(lenses, *size))
        if given.extrinsics is None:
            return answers
        assert answers.extrinsics is not None
        assert answers.depth is not None
        assert answers.points is not None
        scale = scale_between(given.extrinsics, answers.extrinsics[0]).float()
        shown = slice(None) if dense is None else torch.tensor(dense, device=images.device)
        seen = _moved(answers.points, answers.extrinsics[:, shown]) / scale
        return replace(
            answers,
            extrinsics=given.extrinsics[None],
            depth=answers.depth / scale,
            points=_moved(seen, invert(given.extrinsics)[None, shown]),
            metric=False,
        )

    def informed(self, patches: Tensor, conditions: Conditions) -> Tensor:
        if conditions.depth is not None:
            depth, known = conditions.depth
            with self._autocast():
                tokens = self.depth_encoder(depth.to(self.dtype)) + self.depth_emb
            patches = patches + torch.where(known[:, None, None], tokens, 0)
        if conditions.rays is not None:
            rays, known = conditions.rays
            patches = patches + torch.where(known[:, None, None], self.ray_embed(rays.to(self.dtype)), 0)
        return patches

    def told(self, index: int, tokens: Tensor, context: Context) -> Tensor:
        if context.conditions.cameras is None or index - 1 not in self.config.pose_after:
            return tokens
        block = self.pose_inject_blk[self.config.pose_after.index(index - 1)]
        cameras, known = context.conditions.cameras
        if known.sum() < 2:  # a single camera says nothing
            return tokens
        tokens = tokens.clone()
        tokens[known, SPECIAL:] += block(tokens[known, SPECIAL:], cameras[known], context.grid)
        return tokens

    def depth_of(self, raw: Tensor) -> Tensor:
        return raw.clamp(max=LARGEST_LOG_DEPTH).exp()

    def metres(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        rope = self.rope(size, self.config.metric_dim // self.config.metric_num_heads, features.device)
        hidden = self.metric_decoder(self.metric_token, features.flatten(1, 2), rope)
        return self.metric_head(hidden).flatten().float().exp()

    _IN_16_BITS = (*Pi3._IN_16_BITS, "depth_encoder")


def _local(slopes: Tensor, depth: Tensor) -> Tensor:
    """Points in the camera's frame [..., 3], from x and y over z, and z."""
    return torch.cat((slopes * depth[..., None], depth[..., None]), dim=-1)


def _scaled(poses: Tensor, unit: Tensor) -> Tensor:
    return torch.cat((poses[..., :3], poses[..., 3:] * unit), dim=-1)


def _moved(points: Tensor, poses: Tensor) -> Tensor:
    """Points [B, S, H, W, 3] moved by each frame's rotation and translation [B, S, 3, 4]."""
    moved = points.flatten(2, 3) @ poses[..., :3].mT + poses[..., None, :, 3]
    return moved.view_as(points)
