"""What a VGGT looks like: every size that its weights depend on."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from quantvggt.core.errors import InputError
from quantvggt.models.dino import DINO_BACKBONES
from quantvggt.models.family import HEADS, ModelConfig


@dataclass(frozen=True)
class VGGTConfig(ModelConfig):
    """Sizes of one VGGT. The defaults are VGGT-1B (arXiv 2503.11651).

    img_size: side, in pixels, of the square image that the position embedding was made for.
    embed_dim, depth, num_heads: of the alternating-attention aggregator; depth counts pairs (frame, global).
    patch_embed: "conv" or the name of a DINOv2 backbone of the same width.
    dpt_layers: the four aggregator layers whose outputs the dense heads read.
    heads: those of "camera", "depth", "point", "track" that exist.
    """

    family: ClassVar[str] = "vggt"

    img_size: int = 518
    patch_size: int = 14
    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    patch_embed: str = "dinov2_vitl14_reg"
    camera_trunk_depth: int = 4
    camera_num_heads: int = 16
    dpt_features: int = 256
    dpt_out_channels: tuple[int, ...] = (256, 512, 1024, 1024)
    dpt_layers: tuple[int, ...] = (4, 11, 17, 23)
    heads: tuple[str, ...] = HEADS

    def __post_init__(self) -> None:
        for name in ("dpt_out_channels", "dpt_layers", "heads"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"VGGTConfig.{field.name} must be a positive whole number, got {value!r}")
        if self.patch_embed != "conv" and self.patch_embed not in DINO_BACKBONES:
            raise InputError(
                f"VGGTConfig.patch_embed {self.patch_embed!r} is unknown; use one of: conv, {', '.join(DINO_BACKBONES)}"
            )
        if self.patch_embed != "conv" and DINO_BACKBONES[self.patch_embed][0] != self.embed_dim:
            width = DINO_BACKBONES[self.patch_embed][0]
            raise InputError(f"{self.patch_embed} is {width} wide, but VGGTConfig.embed_dim is {self.embed_dim}")
        if self.embed_dim % (4 * self.num_heads):
            raise InputError("VGGTConfig.embed_dim must be a multiple of 4 * num_heads (2D rotary embedding)")
        if (2 * self.embed_dim) % self.camera_num_heads:
            raise InputError("2 * VGGTConfig.embed_dim must be a multiple of camera_num_heads")
        if self.img_size % self.patch_size:
            raise InputError("VGGTConfig.img_size must be a multiple of patch_size")
        if len(self.dpt_layers) != 4 or len(self.dpt_out_channels) != 4:
            raise InputError("VGGTConfig.dpt_layers and dpt_out_channels need four entries each")
        if not all(isinstance(layer, int) and 0 <= layer < self.depth for layer in self.dpt_layers):
            raise InputError(f"VGGTConfig.dpt_layers must lie in 0..{self.depth - 1}, got {self.dpt_layers}")
        unknown = set(self.heads) - set(HEADS)
        if unknown or len(set(self.heads)) != len(self.heads):
            raise InputError(f"VGGTConfig.heads must be distinct names of {', '.join(HEADS)}, got {self.heads}")

    @classmethod
    def vggt_1b(cls) -> "VGGTConfig":
        """The published facebook/VGGT-1B."""
        return cls()

    @property
    def layers_read(self) -> tuple[int, ...]:
        """Aggregator layers that some head reads, ascending."""
        layers = {self.depth - 1} if "camera" in self.heads else set()
        if set(self.heads) - {"camera"}:
            layers |= set(self.dpt_layers)
        return tuple(sorted(layers))

    @property
    def blocks(self) -> int:
        return max(self.depth, self.camera_trunk_depth)


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> VGGTConfig | None:
    """VGGT-1B with those heads that the names of published weights show."""
    parts = {name.partition(".")[0] for name in shapes}
    if "aggregator" not in parts:
        return None
    return replace(VGGTConfig.vggt_1b(), heads=tuple(head for head in HEADS if f"{head}_head" in parts))
