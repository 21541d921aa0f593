"""Dense prediction head (DPT, arXiv 2103.13413, as VGGT uses it for depth, points and track features)."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.models.vggt.aggregator import NUM_SPECIAL
from quantvggt.models.vggt.heads.uv import add_uv_embedding

FUSED_CHANNELS = 32
PIXELS_PER_CHUNK = 2 * 518 * 518  # about 0.2 GB a frame of 518x392 and head in float32


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions around a skip. The skip carries relu(x): the published ReLU works in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return x + self.conv2(F.relu(self.conv1(x), inplace=True))


class Fusion(nn.Module):
    """Add the finer level, refine, mix channels, enlarge to `size`.

    Published code enlarges first. A 1x1 convolution and a linear interpolation, whose weights sum to 1, may change
    places, and mixing fewer pixels is quicker.
    """

    def __init__(self, channels: int, has_skip: bool = True) -> None:
        super().__init__()
        if has_skip:
            self.resConfUnit1 = ResidualUnit(channels)
        self.resConfUnit2 = ResidualUnit(channels)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, skip: Tensor | None, size: Sequence[int]) -> Tensor:
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        return _resize(self.out_conv(self.resConfUnit2(x)), size)


class Pyramid(nn.Module):
    """Four levels to one map, then the output convolutions. Attribute names are those of the published checkpoint.

    out_dim None: the map stays features; otherwise two more convolutions bring it to out_dim channels.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, out_dim: int | None) -> None:
        super().__init__()
        one, two, three, four = in_channels
        self.layer1_rn = nn.Conv2d(one, channels, 3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(two, channels, 3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(three, channels, 3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(four, channels, 3, padding=1, bias=False)
        self.refinenet1 = Fusion(channels)
        self.refinenet2 = Fusion(channels)
        self.refinenet3 = Fusion(channels)
        self.refinenet4 = Fusion(channels, has_skip=False)
        self.output_conv2: nn.Module = nn.Identity()
        if out_dim is None:
            self.output_conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        else:
            self.output_conv1 = nn.Conv2d(channels, channels // 2, 3, padding=1)
            self.output_conv2 = nn.Sequential(
                nn.Conv2d(channels // 2, FUSED_CHANNELS, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(FUSED_CHANNELS, out_dim, 1),
            )

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        one, two, three, four = levels
        one, two, three = self.layer1_rn(one), self.layer2_rn(two), self.layer3_rn(three)
        x = self.refinenet4(self.layer4_rn(four), None, three.shape[2:])
        x = self.refinenet3(x, three, two.shape[2:])
        x = self.refinenet2(x, two, one.shape[2:])
        x = self.refinenet1(x, one, [2 * side for side in one.shape[2:]])
        return self.output_conv1(x)


class DPTHead(nn.Module):
    """Tokens of four layers -> a map per frame.

    out_dim None: features [n, F, H/down, W/down] (the track head's input).
    Otherwise: raw channels [n, out_dim, H, W], to be activated by the caller.
    """

    def __init__(
        self, dim: int, patch_size: int, features: int, out_channels: Sequence[int], layers: Sequence[int],
        out_dim: int | None, down: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.layers, self.patch_size, self.down = tuple(layers), patch_size, down
        self.norm = nn.LayerNorm(dim)
        self.projects = nn.ModuleList(nn.Conv2d(dim, width, 1) for width in out_channels)
        a, b, _, d = out_channels
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(a, a, 4, stride=4),
                nn.ConvTranspose2d(b, b, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(d, d, 3, stride=2, padding=1),
            ]
        )
        self.scratch = Pyramid(out_channels, features, out_dim)

    def forward(self, tokens: Mapping[int, Tensor], height: int, width: int) -> Tensor:
        """tokens: {layer: [n, P, 2C]} of n frames -> [n, channels, H/down, W/down]."""
        aspect = width / height
        rows, columns = height // self.patch_size, width // self.patch_size
        levels = []
        for layer, project, resize in zip(self.layers, self.projects, self.resize_layers, strict=True):
            x = self.norm(tokens[layer][:, NUM_SPECIAL:])
            x = project(x.unflatten(1, (rows, columns)).permute(0, 3, 1, 2))
            levels.append(resize(add_uv_embedding(x, aspect)))
        x = _resize(self.scratch(levels), (height // self.down, width // self.down))
        return self.scratch.output_conv2(add_uv_embedding(x, aspect))


def frames_per_chunk(height: int, width: int) -> int:
    """How many frames a dense head takes at a time when no gradient is wanted."""
    return max(1, PIXELS_PER_CHUNK // (height * width))


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
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
