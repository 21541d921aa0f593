"""What Pi3X can be told of a clip, and how cameras come in: attention that knows where each frame looks from."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.core.errors import InputError
from quantvggt.models.given import Given
from quantvggt.models.pi3.heads import EPS
from quantvggt.models.pose import compose, invert
from quantvggt.nn.block import Attention, Mlp
from quantvggt.nn.fused import LayerScale, linear_steps
from quantvggt.nn.rope import BASE

SMALLEST_MOTION = 0.02  # cameras closer together than this keep their distances
_TINY = 1e-8


@dataclass(frozen=True)
class Conditions:
    """Of S frames of H x W pixels, in the units that the network was trained on.

    depth: [S, 2, H, W], depth by its mean and where it is known; rays: x and y of each pixel's ray (x, y, 1),
    [S, 2, H, W]; cameras: world-to-camera [S, 3, 4]. Each has frames, bool [S], that it is known of.
    """

    depth: tuple[Tensor, Tensor] | None = None
    rays: tuple[Tensor, Tensor] | None = None
    cameras: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, given: Given, size: tuple[int, int]) -> "Conditions":
        """A frame without any depth counts as one whose depth isn't known. Raises InputError if a lens is none."""
        depth = rays = cameras = None
        unit = 1.0
        if given.depth is not None and (given.depth > 0).any():
            known = given.depth > 0
            unit = given.depth[known].double().mean().item() + _TINY
            depth = depth_channels(given.depth, unit), known.flatten(1).any(1)
        if given.intrinsics is not None:
            if not (given.intrinsics.diagonal(dim1=-2, dim2=-1) > 0).all() or given.intrinsics.tril(-1).any():
                raise InputError(
                    "given intrinsics must be [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with fx and fy above 0"
                )
            everywhere = torch.ones(len(given.intrinsics), dtype=torch.bool, device=given.intrinsics.device)
            rays = pixel_rays(given.intrinsics, size), everywhere
        if given.extrinsics is not None:
            everywhere = torch.ones(len(given.extrinsics), dtype=torch.bool, device=given.extrinsics.device)
            cameras = relative_cameras(given.extrinsics, None if depth is None else unit), everywhere
        return cls(depth, rays, cameras)


NOTHING = Conditions()


def depth_channels(depth: Tensor, unit: float) -> Tensor:
    """Depth [S, H, W], 0 = unknown -> [S, 2, H, W]: depth in that unit, and where it is known."""
    return torch.stack((depth / unit, (depth > 0).to(depth)), dim=1)


def pixel_rays(intrinsics: Tensor, size: tuple[int, int]) -> Tensor:
    """x and y of the ray (x, y, 1) through each pixel's centre, [S, 2, H, W], from intrinsics [S, 3, 3]."""
    height, width = size
    across, down = (torch.arange(n, device=intrinsics.device).double() + 0.5 for n in (width, height))
    centres = torch.stack(
        (across.expand(height, width), down[:, None].expand(height, width), across.new_ones(height, width))
    )
    rays = torch.linalg.inv(intrinsics.double()) @ centres.flatten(1)
    return rays[:, :2].unflatten(-1, size).to(intrinsics)


def relative_cameras(extrinsics: Tensor, unit: float | None) -> Tensor:
    """World-to-camera [S, 3, 4], the first camera the world, distances in that unit; without one in their mean, unless
    all are tiny."""
    extrinsics = extrinsics.double()
    relative = compose(extrinsics, invert(extrinsics[:1]))
    distances = relative[1:, :, 3].norm(dim=-1)
    if unit is None:
        unit = distances.mean().item() + _TINY if (distances >= SMALLEST_MOTION).any() else 1.0
    return torch.cat((relative[..., :3], relative[..., 3:] / unit), dim=-1).float()


class PoseBlock(nn.Module):
    """Patches [S, P, C] of the frames whose cameras are known -> what is added to them, [S, P, C].

    Attention and MLP side by side. Queries, keys and values are turned by camera, row and column (PRoPE, arXiv
    2507.10496), so that attention depends on how frames lie to one another and on nothing else.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = Attention(dim, num_heads, qk_norm=True)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, 4 * dim)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor, cameras: Tensor, grid: tuple[int, int]) -> Tensor:
        """cameras: world-to-camera [S, 3, 4]; grid: rows and columns of patches."""
        attention = self.attn
        qkv = linear_steps(attention.qkv, x, self.norm1).unflatten(-1, (3, attention.num_heads, -1))
        q, k, v = qkv.unbind(-3)  # [S, P, h, d]
        places = Places(cameras, grid, q.shape[-1])
        q, k = places.query(attention.q_norm(q).float()), places.key(attention.k_norm(k).float())
        values = places.key(v.float())
        q, k, values = (each.to(v).flatten(0, 1).transpose(0, 1)[None] for each in (q, k, values))  # [1, h, S P, d]
        y = F.scaled_dot_product_attention(q, k, values)[0].transpose(0, 1).unflatten(0, v.shape[:2])
        y = places.result(y.float()).to(v).flatten(2)
        attended = linear_steps(attention.proj, y, gain=self.ls1)
        return self.mlp(x, self.norm2, self.ls2, attended)


class Places:
    """What turns vectors [S, P, h, d]: the first half of d, in fours, by the frame's camera; then a quarter each by the
    patch's column and row."""

    def __init__(self, cameras: Tensor, grid: tuple[int, int], dim: int) -> None:
        rows, columns = grid
        last = cameras.new_tensor([0, 0, 0, 1]).expand(len(cameras), 1, 4)
        self.camera, self.back = (torch.cat((each, last), dim=1) for each in (cameras, invert(cameras)))
        quarter = dim // 8
        frequencies = BASE ** -(torch.arange(quarter, device=cameras.device, dtype=torch.float32) / quarter)
        row, column = torch.arange(rows), torch.arange(columns)
        column_row = torch.stack((column.repeat(rows), row.repeat_interleave(columns)), dim=-1).to(cameras)
        self.angles = (column_row[..., None] * frequencies)[:, None]  # [P, 1, 2, d/8]

    def query(self, x: Tensor) -> Tensor:
        return self._turn(x, self.camera.mT, self.angles)

    def key(self, x: Tensor) -> Tensor:
        """Of values too."""
        return self._turn(x, self.back, self.angles)

    def result(self, x: Tensor) -> Tensor:
        return self._turn(x, self.camera, -self.angles)

    @staticmethod
    def _turn(x: Tensor, camera: Tensor, angles: Tensor) -> Tensor:
        of_camera, of_patch = x.chunk(2, dim=-1)
        of_camera = (of_camera.unflatten(-1, (-1, 4)).flatten(1, 3) @ camera.mT).view_as(of_camera)
        left, right = of_patch.unflatten(-1, (2, 2, -1)).unbind(-2)
        cosine, sine = angles.cos(), angles.sin()
        turned = torch.stack((left * cosine + right * sine, right * cosine - left * sine), dim=-2).flatten(-3)
        return torch.cat((of_camera, turned), dim=-1)
