"""Dense prediction head (DPT, arXiv 2103.13413), as VGGT and Depth-Anything-3 use it: tokens of four layers to maps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.models.uv import add_uv_embedding

FUSED_CHANNELS = 32
PIXELS_PER_CHUNK = 2 * 518 * 518  # about 0.2 GB a frame of 518x392 and head in float32


@dataclass(frozen=True)
class Layout:
    """What the heads of a model have in common.

    special: how many of a frame's tokens are no patches. Families differ: normalised: is there a LayerNorm over tokens?
    embedded: are places in the image added to the maps? activated_skips: see `ResidualUnit`.
    """

    patch_size: int
    features: int
    out_channels: tuple[int, ...]
    layers: tuple[int, ...]
    special: int = 0
    normalised: bool = True
    embedded: bool = True
    activated_skips: bool = False


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions around a skip. activated: the skip carries relu(x), for VGGT's published ReLU works in
    place; x is used up then."""

    def __init__(self, channels: int, activated: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.activated = activated

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(x, inplace=self.activated)
        y: Tensor = self.conv2(F.relu(self.conv1(active), inplace=True))
        return y.add_(active if self.activated else x)


class Fusion(nn.Module):
    """Add the finer level, refine, mix channels, enlarge to `size`.

    Published code enlarges first. A 1x1 convolution and a linear interpolation, whose weights sum to 1, may change
    places, and mixing fewer pixels is quicker.
    """

    def __init__(self, channels: int, activated_skips: bool, has_skip: bool = True) -> None:
        super().__init__()
        if has_skip:
            self.resConfUnit1 = ResidualUnit(channels, activated_skips)
        self.resConfUnit2 = ResidualUnit(channels, activated_skips)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, skip: Tensor | None, size: Sequence[int]) -> Tensor:
        if skip is not None:
            x = self.resConfUnit1(skip).add_(x)
        return resize(self.out_conv(self.resConfUnit2(x)), size)


class Pyramid(nn.Module):
    """Four levels to one map, then the output convolutions. Attribute names are those of the published checkpoint.

    out_dim None: the map stays features; otherwise two more convolutions bring it to out_dim channels.
    """

    def __init__(self, layout: Layout, out_dim: int | None) -> None:
        super().__init__()
        one, two, three, four = layout.out_channels
        channels, activated = layout.features, layout.activated_skips
        self.layer1_rn = nn.Conv2d(one, channels, 3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(two, channels, 3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(three, channels, 3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(four, channels, 3, padding=1, bias=False)
        self.refinenet1 = Fusion(channels, activated)
        self.refinenet2 = Fusion(channels, activated)
        self.refinenet3 = Fusion(channels, activated)
        self.refinenet4 = Fusion(channels, activated, has_skip=False)
        self.output_conv2: nn.Module = nn.Identity()
        if out_dim is None:
            self.output_conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        else:
            self.output_conv1 = nn.Conv2d(channels, channels // 2, 3, padding=1)
            self.output_conv2 = nn.Sequential(
                nn.Conv2d(channels // 2, FUSED_CHANNELS, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(FUSED_CHANNELS, out_dim, 1),
            )

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        return self.output_conv1(self.fuse(levels))

    def fuse(self, levels: Sequence[Tensor], which: str = "") -> Tensor:
        """The map behind refinenet1, twice the first level's size; which: what the refinenets' names end in."""
        one, two, three, four = levels
        one, two, three = self.layer1_rn(one), self.layer2_rn(two), self.layer3_rn(three)
        first, second, third, last = (self.get_submodule(f"refinenet{index}{which}") for index in (1, 2, 3, 4))
        x = last(self.layer4_rn(four), None, three.shape[2:])
        x = third(x, three, two.shape[2:])
        x = second(x, two, one.shape[2:])
        x = first(x, one, [2 * side for side in one.shape[2:]])
        return x


class DPTHead(nn.Module):
    """Tokens of four layers -> a map per frame.

    out_dim None: features [n, F, H/down, W/down] (the track head's input).
    Otherwise: raw channels [n, out_dim, H, W], to be activated by the caller.
    """

    def __init__(self, dim: int, layout: Layout, out_dim: int | None, down: int = 1) -> None:
        super().__init__()
        self.layout, self.down = layout, down
        self.norm = nn.LayerNorm(dim) if layout.normalised else nn.Identity()
        self.projects = nn.ModuleList(nn.Conv2d(dim, width, 1) for width in layout.out_channels)
        a, b, _, d = layout.out_channels
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(a, a, 4, stride=4),
                nn.ConvTranspose2d(b, b, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(d, d, 3, stride=2, padding=1),
            ]
        )
        self.scratch = Pyramid(layout, out_dim)

    def forward(self, tokens: Mapping[int, Tensor], height: int, width: int) -> Tensor:
        """tokens: {layer: [n, P, 2C]} of n frames -> [n, channels, H/down, W/down]."""
        x = self.enlarged(self.scratch(self.levels(tokens, height, width)), height, width)
        return self.scratch.output_conv2(self.placed(x, height, width))

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return next(self.parameters()).dtype

    def levels(self, tokens: Mapping[int, Tensor], height: int, width: int) -> list[Tensor]:
        """The four layers as maps of 4, 2, 1 and 1/2 times the patches' grid."""
        rows, columns = height // self.layout.patch_size, width // self.layout.patch_size
        levels = []
        for layer, project, resized in zip(self.layout.layers, self.projects, self.resize_layers, strict=True):
            x = self.norm(tokens[layer][:, self.layout.special :])
            x = project(x.unflatten(1, (rows, columns)).permute(0, 3, 1, 2))
            levels.append(resized(self.placed(x, height, width)))
        return levels

    def enlarged(self, x: Tensor, height: int, width: int) -> Tensor:
        """The map at the size of what comes out."""
        return resize(x, (height // self.down, width // self.down))

    def placed(self, x: Tensor, height: int, width: int) -> Tensor:
        """The map, which is used up, with its places in the image added, where the family does so."""
        return add_uv_embedding(x, width / height) if self.layout.embedded else x


def by_chunks(
    head: Callable[[dict[int, Tensor]], tuple[Tensor, ...]], tokens: Mapping[int, Tensor], height: int, width: int
) -> tuple[Tensor, ...]:
    """What `head` makes of {layer: [n, P, D]}, each [B, S, ...], from tokens {layer: [B, S, P, D]}.

    It runs on a few frames at a time if no gradient is wanted, and each chunk is written where it belongs.
    """
    batch, frames = next(iter(tokens.values())).shape[:2]
    total = batch * frames
    step = total if torch.is_grad_enabled() else frames_per_chunk(height, width)
    shown = {layer: x.flatten(0, 1) for layer, x in tokens.items()}
    outputs: list[Tensor] = []
    for first in range(0, total, step):
        values = head({layer: x[first : first + step] for layer, x in shown.items()})
        if step >= total:
            outputs = list(values)
            break
        outputs = outputs or [value.new_empty(total, *value.shape[1:]) for value in values]
        for output, value in zip(outputs, values, strict=True):
            output[first : first + step] = value
    return tuple(output.unflatten(0, (batch, frames)) for output in outputs)


def frames_per_chunk(height: int, width: int) -> int:
    """How many frames a dense head takes at a time when no gradient is wanted."""
    return max(1, PIXELS_PER_CHUNK // (height * width))


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """The map at another size, bilinearly, corners kept."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def activate_depth(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Raw [n, 2, H, W] -> depth [n, H, W, 1] = exp, confidence [n, H, W] = 1 + exp; float32."""
    raw = raw.float()
    return raw[:, :1].permute(0, 2, 3, 1).exp(), 1 + raw[:, 1].exp()


def activate_points(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Raw [n, 4, H, W] -> points [n, H, W, 3] = sign(x) expm1(|x|), confidence [n, H, W] = 1 + exp; float32."""
    raw = raw.float()
    xyz = raw[:, :3].permute(0, 2, 3, 1)
    return torch.sign(xyz) * torch.expm1(xyz.abs()), 1 + raw[:, 3].exp()
