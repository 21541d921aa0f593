"""The dense heads of Depth-Anything-3, all on `models.dpt`: depth and rays, monocular depth and sky, Gaussians."""

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.models.dpt import FUSED_CHANNELS, DPTHead, Fusion, Layout, Pyramid

RAY_SIZE = 6  # direction 3, origin 3
GAUSSIAN_SIZE = 37
_RAY_LEVEL = 3  # of the lists below; the others come with the weights and nobody runs them
_SKY = 0.3  # from here on it is
_FAR = 0.99  # the quantile of depth that the sky gets
_FEWEST = 10  # pixels of sky, and of anything else
_SUBSAMPLE = 100_000


class RayPyramid(Pyramid):
    """Depth's way from levels to a map, and the rays' own beside it."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout, out_dim=2)
        channels, half = layout.features, layout.features // 2
        for index in (1, 2, 3, 4):
            setattr(self, f"refinenet{index}_aux", Fusion(channels, layout.activated_skips, has_skip=index < 4))
        self.output_conv1_aux = nn.ModuleList(
            nn.Sequential(*(nn.Conv2d(*sides, 3, padding=1) for sides in ((channels, half), (half, channels)) * 2),
                          nn.Conv2d(channels, half, 3, padding=1))
            for _ in range(_RAY_LEVEL + 1)
        )  # fmt: skip
        # All four share one LayerNorm, which the published files hold once: it is the first one's.
        self.output_conv2_aux = nn.ModuleList(RayOutput(half, has_norm=index == 0) for index in range(_RAY_LEVEL + 1))

    def rays(self, x: Tensor) -> Tensor:
        """The map as the output convolutions get it -> [n, h, w, 7]."""
        norm = self.output_conv2_aux[0].get_submodule("2")
        y: Tensor = self.output_conv2_aux[_RAY_LEVEL](x, norm)
        return y


class RayOutput(nn.Module):
    """Convolution, LayerNorm over channels, ReLU, 1x1: [n, C, h, w] -> [n, h, w, 7]."""

    def __init__(self, channels: int, has_norm: bool) -> None:
        super().__init__()
        self.add_module("0", nn.Conv2d(channels, FUSED_CHANNELS, 3, padding=1))
        if has_norm:
            self.add_module("2", nn.LayerNorm(FUSED_CHANNELS))
        self.add_module("5", nn.Conv2d(FUSED_CHANNELS, RAY_SIZE + 1, 1))

    def forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        x = norm(self.get_submodule("0")(x).permute(0, 2, 3, 1))
        y: Tensor = self.get_submodule("5")(F.relu(x).permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1)


ALIASES = {
    f"head.scratch.output_conv2_aux.{index}.2.{name}": f"head.scratch.output_conv2_aux.0.2.{name}"
    for index in range(1, _RAY_LEVEL + 1)
    for name in ("weight", "bias")
}
"""The shared LayerNorm's other names in state dicts."""


class DepthRayHead(DPTHead):
    """Raw depth and confidence [n, 2, H, W]; rays are asked for apart."""

    scratch: RayPyramid

    def __init__(self, dim: int, layout: Layout) -> None:
        super().__init__(dim, layout, out_dim=2)
        self.scratch = RayPyramid(layout)

    def rays(self, tokens: Mapping[int, Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Direction and origin [n, 8h, 8w, 6] of each cell's ray, on 8 times the patches' grid, in the world that the
        camera decoder means; and how sure they are [n, 8h, 8w], 1 or more."""
        x = self.scratch.output_conv1_aux[_RAY_LEVEL](self.scratch.fuse(self.levels(tokens, height, width), "_aux"))
        x = self.scratch.rays(self.placed(x, height, width)).float()
        return x[..., :RAY_SIZE], 1 + x[..., RAY_SIZE].exp()


class SkyPyramid(Pyramid):
    """With output convolutions for the sky beside those for depth."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout, out_dim=1)
        self.sky_output_conv2 = nn.Sequential(
            nn.Conv2d(layout.features // 2, FUSED_CHANNELS, 3, padding=1), nn.ReLU(), nn.Conv2d(FUSED_CHANNELS, 1, 1)
        )


class MonocularHead(DPTHead):
    """Depth and how much of a sky each pixel is, [n, H, W] each; float32."""

    scratch: SkyPyramid

    def __init__(self, dim: int, layout: Layout) -> None:
        super().__init__(dim, layout, out_dim=1)
        self.scratch = SkyPyramid(layout)

    def depth_and_sky(self, tokens: Mapping[int, Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
        x = self.enlarged(self.scratch(self.levels(tokens, height, width)), height, width)
        depth, sky = self.scratch.output_conv2(x), self.scratch.sky_output_conv2(x)
        return depth[:, 0].float().exp(), F.relu(sky[:, 0].float())


def far_sky(depth: Tensor, sky: Tensor) -> Tensor:
    """Depth with the sky as far as the 99% quantile of all else; as it is where either is next to nothing.

    Of more than 100 000 pixels evenly spaced ones stand for all (published code draws them).
    """
    is_sky = sky >= _SKY
    if min(int(is_sky.sum()), int((~is_sky).sum())) <= _FEWEST:
        return depth
    others = depth[~is_sky]
    far = torch.quantile(others[:: -(-len(others) // _SUBSAMPLE)], _FAR)
    return torch.where(is_sky, far, depth)


class GaussianHead(DPTHead):
    """Raw Gaussians and how sure they are, one for each pixel."""

    def __init__(self, dim: int, layout: Layout) -> None:
        super().__init__(dim, layout, out_dim=GAUSSIAN_SIZE + 1)
        half = layout.features // 2
        widths = (3, half // 4, half // 2, half)
        convolutions = (nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.images_merger = nn.Sequential(*(layer for conv in convolutions for layer in (conv, nn.GELU())))

    def gaussians(self, tokens: Mapping[int, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """images: normalised [n, 3, H, W]. Returns float32 [n, H, W, 37] and [n, H, W] in [0, 1]."""
        height, width = images.shape[-2:]
        x = self.enlarged(self.scratch(self.levels(tokens, height, width)), height, width) + self.images_merger(images)
        raw = self.scratch.output_conv2(self.placed(x, height, width)).permute(0, 2, 3, 1).float()
        return raw[..., :GAUSSIAN_SIZE], raw[..., GAUSSIAN_SIZE].sigmoid()
