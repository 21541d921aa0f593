"""From the trunk's tokens to maps: a decoder of blocks within frames, then either a linear layer or convolutions."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.nn.block import Block
from quantvggt.nn.rope import RopeTables

EPS = 1e-6  # of every LayerNorm but those of queries and keys
HIDDEN = 32  # channels between the two convolutions that write a map
GROUP = 32  # channels of a group norm's groups


class TokenDecoder(nn.Module):
    """[n, P, 2C] of n frames -> [n, P, out], each frame by itself."""

    def __init__(self, in_dim: int, dim: int, depth: int, num_heads: int, out: int) -> None:
        super().__init__()
        self.projects = nn.Linear(in_dim, dim)
        self.blocks = nn.ModuleList(Block(dim, num_heads, eps=EPS, layer_scale=False) for _ in range(depth))
        self.linear_out = nn.Linear(dim, out)

    def forward(self, tokens: Tensor, rope: RopeTables) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, rope)
        return self.linear_out(x)

    def embed(self, tokens: Tensor) -> Tensor:
        """What the first block gets, in the tokens' dtype."""
        return self.projects(tokens).to(tokens.dtype)


class LinearHead(nn.Module):
    """Patches [n, P, C] -> raw maps [n, channels, H, W], each patch by itself."""

    def __init__(self, dim: int, patch_size: int, channels: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(dim, channels * patch_size**2)

    def forward(self, patches: Tensor, size: tuple[int, int]) -> Tensor:
        rows = size[0] // self.patch_size
        return F.pixel_shuffle(self.proj(patches).mT.unflatten(-1, (rows, -1)), self.patch_size)


class ConvHead(nn.Module):
    """Patches [n, P, C] -> raw maps [n, sum of outputs, H, W], by convolutions on a map that grows stage by stage."""

    def __init__(self, dim: int, patch_size: int, channels: Sequence[int], outputs: Sequence[int]) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.upsample_blocks = nn.ModuleList(map(Stage, (dim, *channels), channels))
        self.output_block = nn.ModuleList(Output(channels[-1], out) for out in outputs)

    def forward(self, patches: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = size
        x = patches.mT.unflatten(-1, (height // self.patch_size, -1))
        for stage in self.upsample_blocks:
            x = stage(_with_places(x, width / height))
        x = F.interpolate(x, size=size, mode="bilinear")
        x = _framed(_with_places(x, width / height))
        return torch.cat([output(x) for output in self.output_block], dim=1)


class Stage(nn.ModuleList):
    """A map with its places [n, before + 2, h, w] -> [n, after, 2h, 2w]."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__([Enlarge(before + 2, after), Residual(after), Residual(after)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class Enlarge(nn.ModuleList):
    def __init__(self, before: int, after: int) -> None:
        super().__init__([nn.ConvTranspose2d(before, after, 2, stride=2), nn.Conv2d(after, after, 3)])

    def forward(self, x: Tensor) -> Tensor:
        transposed, conv = self
        return conv(_framed(transposed(x)))


class Residual(nn.Module):
    """Two group norms, each with a ReLU and a 3x3 convolution, around a skip; twice as many channels between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.GroupNorm(1, channels),
                nn.ReLU(),
                nn.Conv2d(channels, 2 * channels, 3),
                nn.GroupNorm(2 * channels // GROUP, 2 * channels),
                nn.ReLU(),
                nn.Conv2d(2 * channels, channels, 3),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        norm, _, conv, other_norm, _, other_conv = self.layers
        return x + other_conv(_framed(F.relu(other_norm(conv(_framed(F.relu(norm(x))))))))


class Output(nn.ModuleList):
    """A framed map with its places [n, channels + 2, H + 2, W + 2] -> [n, out, H, W]."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__([nn.Conv2d(channels + 2, HIDDEN, 3), nn.ReLU(), nn.Conv2d(HIDDEN, out, 1)])

    def forward(self, x: Tensor) -> Tensor:
        conv, relu, last = self
        return last(relu(conv(x)))


def _framed(x: Tensor) -> Tensor:
    """The rim once more around a map, for a 3x3 convolution; the layer itself pads nothing."""
    return F.pad(x, (1, 1, 1, 1), mode="replicate")


def _with_places(x: Tensor, aspect: float) -> Tensor:
    """x [n, C, h, w] and each cell's place in an image of width/height = aspect: u and v, the diagonal from -1 to 1."""
    height, width = x.shape[-2:]
    diagonal = (1 + aspect**2) ** 0.5
    u, v = (
        torch.linspace(-edge, edge, count, dtype=torch.float64, device=x.device).to(x.dtype)
        for count, edge in ((width, _edge(width, aspect / diagonal)), (height, _edge(height, 1 / diagonal)))
    )
    n = len(x)
    return torch.cat((x, u.expand(n, 1, height, width), v[:, None].expand(n, 1, height, width)), dim=1)


def _edge(count: int, span: float) -> float:
    """Where the outermost of `count` cells has its centre."""
    return span * (count - 1) / count
