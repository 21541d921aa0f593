"""What a Pi3 or a Pi3X looks like: every size that its weights depend on."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from quantvggt.core.errors import InputError
from quantvggt.models.family import ModelConfig

LICENCE = "CC BY-NC 4.0: not for commercial use"
_NEEDED = {"register_token", "encoder", "decoder", "point_decoder", "camera_head"}


@dataclass(frozen=True)
class Pi3Config(ModelConfig):
    """Sizes of one Pi3. The defaults are the published one (arXiv 2507.13347).

    img_size: side, in pixels, of the square image that the position embedding was made for.
    embed_dim: of the DINOv2 encoder and of the decoder, the trunk; depth: the trunk's blocks, within frames and over
    all frames by turns.
    head_*: of the decoders behind it, one each for points, confidences and cameras; *_out: what these give.
    """

    family: ClassVar[str] = "pi3"

    img_size: int = 518
    patch_size: int = 14
    embed_dim: int = 1024
    encoder_depth: int = 24
    encoder_num_heads: int = 16
    depth: int = 36
    num_heads: int = 16
    head_dim: int = 1024
    head_depth: int = 5
    head_num_heads: int = 16
    point_out: int = 1024
    camera_out: int = 512

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"{self._own}.{field.name} must be a positive whole number, got {value!r}")
        if self.img_size % self.patch_size:
            raise InputError(f"{self._own}.img_size must be a multiple of patch_size")
        if self.depth < 2:
            raise InputError(f"{self._own}.depth must be 2 or more, because heads read the last two blocks")
        self._require_multiple("embed_dim", 1, "encoder_num_heads")
        self._require_multiple("embed_dim", 4, "num_heads")
        self._require_multiple("head_dim", 4, "head_num_heads")

    @property
    def _own(self) -> str:
        return type(self).__name__

    def _require_multiple(self, width: str, parts: int, heads: str) -> None:
        if getattr(self, width) % (parts * getattr(self, heads)):
            raise InputError(f"{self._own}.{width} must be a multiple of {parts} * {heads}")

    @property
    def trunk_size(self) -> int:
        """Width of the trunk's attention heads."""
        return self.embed_dim // self.num_heads

    @property
    def head_size(self) -> int:
        """Width of the attention heads behind the trunk."""
        return self.head_dim // self.head_num_heads

    @property
    def blocks(self) -> int:
        return max(self.depth, self.encoder_depth, self.head_depth)


@dataclass(frozen=True)
class Pi3XConfig(Pi3Config):
    """Sizes of one Pi3X. The defaults are the published one.

    head_channels: of the stages of its convolutional heads. metric_*: of the decoder that finds the scale.
    conditions: can it be told cameras and depth? pose_after: the blocks behind which known cameras come in.
    """

    family: ClassVar[str] = "pi3x"

    head_channels: tuple[int, ...] = (256, 128, 64)
    metric_dim: int = 512
    metric_num_heads: int = 8
    conditions: bool = True
    pose_after: tuple[int, ...] = (1, 9, 17, 25, 33)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("head_channels", "pose_after"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._require_multiple("metric_dim", 4, "metric_num_heads")
        self._require_multiple("embed_dim", 8, "num_heads")
        channels, after = self.head_channels, self.pose_after
        if not channels or not all(isinstance(each, int) and each > 0 and each % 16 == 0 for each in channels):
            raise InputError(f"Pi3XConfig.head_channels must be multiples of 16 (group norms), got {channels}")
        if not all(isinstance(each, int) and 0 <= each < self.depth for each in after) or len(set(after)) < len(after):
            raise InputError(f"Pi3XConfig.pose_after must be distinct blocks of 0..{self.depth - 1}, got {after}")
        if not isinstance(self.conditions, bool):
            raise InputError(f"Pi3XConfig.conditions must be true or false, got {self.conditions!r}")


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> Pi3Config | None:
    """The published Pi3, from the names of its parts."""
    parts = _parts(shapes)
    return Pi3Config() if parts >= _NEEDED and "metric_token" not in parts else None


def recognise_x(shapes: Mapping[str, tuple[int, ...]]) -> Pi3XConfig | None:
    """The published Pi3X, whole or without what only conditions need."""
    parts = _parts(shapes)
    return Pi3XConfig(conditions="depth_encoder" in parts) if parts >= {*_NEEDED, "metric_token"} else None


def _parts(shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    return {name.partition(".")[0] for name in shapes}
