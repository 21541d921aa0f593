"""What a Depth-Anything-3 looks like: every size that its weights depend on."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from quantvggt.core.errors import InputError
from quantvggt.models.family import ModelConfig

_STEM = "backbone.pretrained."


@dataclass(frozen=True)
class DA3Config(ModelConfig):
    """Sizes of one Depth-Anything-3. The defaults are DA3-BASE.

    img_size: side, in pixels, of the square image that the position table was made for. picture_size: the longer side
    that pictures are best resized to.
    embed_dim, depth, num_heads: of the one transformer. start: the first block that knows positions and may see all
    frames, as every second one from there on does; `depth` where none does: a monocular model, with depth and sky and
    without cameras.
    layers: the four blocks whose outputs heads read. features, out_channels: widths of the dense heads.
    swiglu: are the MLPs SwiGLU? gaussians: is there the head that gives Gaussians?
    """

    family: ClassVar[str] = "da3"

    img_size: int = 518
    patch_size: int = 14
    picture_size: int = 504
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    start: int = 4
    layers: tuple[int, ...] = (5, 7, 9, 11)
    features: int = 128
    out_channels: tuple[int, ...] = (96, 192, 384, 768)
    swiglu: bool = False
    gaussians: bool = False

    def __post_init__(self) -> None:
        for name in ("layers", "out_channels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "start" else 1
            if field.type is int and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise InputError(f"DA3Config.{field.name} must be a whole number from {least}, got {value!r}")
            if field.type is bool and not isinstance(value, bool):
                raise InputError(f"DA3Config.{field.name} must be true or false, got {value!r}")
        if self.embed_dim % (4 * self.num_heads):
            raise InputError("DA3Config.embed_dim must be a multiple of 4 * num_heads (2D rotary embedding)")
        if self.embed_dim % ENCODER_HEADS:
            raise InputError(f"DA3Config.embed_dim must be a multiple of {ENCODER_HEADS}, the camera encoder's heads")
        if self.img_size % self.patch_size or self.picture_size % self.patch_size:
            raise InputError("DA3Config.img_size and picture_size must be multiples of patch_size")
        if self.start > self.depth:
            raise InputError(f"DA3Config.start must lie in 0..{self.depth}, got {self.start}")
        if len(self.layers) != 4 or len(self.out_channels) != 4:
            raise InputError("DA3Config.layers and out_channels need four entries each")
        legal = all(isinstance(layer, int) and 0 <= layer < self.depth for layer in self.layers)
        if not legal or list(self.layers) != sorted(set(self.layers)):
            raise InputError(f"DA3Config.layers must ascend in 0..{self.depth - 1}, got {self.layers}")
        if not all(isinstance(width, int) and width > 0 for width in self.out_channels):
            raise InputError(f"DA3Config.out_channels must be positive whole numbers, got {self.out_channels}")

    @classmethod
    def small(cls) -> "DA3Config":
        """The published depth-anything/DA3-SMALL."""
        return cls(embed_dim=384, num_heads=6, features=64, out_channels=(48, 96, 192, 384))

    @classmethod
    def base(cls) -> "DA3Config":
        """The published depth-anything/DA3-BASE."""
        return cls()

    @classmethod
    def large(cls) -> "DA3Config":
        """The published depth-anything/DA3-LARGE."""
        return cls(
            embed_dim=1024,
            depth=24,
            num_heads=16,
            start=8,
            layers=(11, 15, 19, 23),
            features=256,
            out_channels=(256, 512, 1024, 1024),
        )

    @classmethod
    def giant(cls) -> "DA3Config":
        """The published depth-anything/DA3-GIANT."""
        return replace(
            cls.large(),
            embed_dim=1536,
            depth=40,
            num_heads=24,
            start=13,
            layers=(19, 27, 33, 39),
            swiglu=True,
            gaussians=True,
        )

    @classmethod
    def monocular(cls) -> "DA3Config":
        """The published depth-anything/DA3MONO-LARGE and DA3METRIC-LARGE."""
        return replace(cls.large(), start=24, layers=(4, 11, 17, 23))

    @property
    def alternates(self) -> bool:
        """Does some block see more than one frame?"""
        return self.start < self.depth

    @property
    def blocks(self) -> int:
        return self.depth


ENCODER_HEADS = 16
PUBLISHED = (DA3Config.small(), DA3Config.base(), DA3Config.large(), DA3Config.giant(), DA3Config.monocular())


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> DA3Config | None:
    """The published model that has as many blocks, as wide, and sees one frame or several as these names show."""
    width = shapes.get(f"{_STEM}cls_token", (0,))[-1]
    depth = len([name for name in shapes if name.startswith(_STEM) and name.endswith(".norm1.weight")])
    alternates = any(name.endswith(".q_norm.weight") for name in shapes)
    found = (c for c in PUBLISHED if (c.embed_dim, c.depth, c.alternates) == (width, depth, alternates))
    config = next(found, None)
    return config and replace(config, gaussians=any(name.startswith("gs_head.") for name in shapes))


def licence(config: DA3Config) -> str | None:
    """That of LARGE and GIANT; the weights of the others are Apache-2.0."""
    return "CC BY-NC 4.0: not for commercial use" if config.alternates and config.embed_dim >= 1024 else None
