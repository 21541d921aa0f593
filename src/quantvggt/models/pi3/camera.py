"""Cameras: from tokens to poses, from nine numbers to a rotation, from rays to a lens."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_DEGENERATE = 1e-6  # eigenvalues below this share of the largest: no direction to turn to
_TINY = 1e-30


class Residual(nn.Module):
    """x + three layers of x, each with a ReLU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.res_conv1 = nn.Linear(dim, dim)
        self.res_conv2 = nn.Linear(dim, dim)
        self.res_conv3 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.res_conv3(F.relu(self.res_conv2(F.relu(self.res_conv1(x))))))


class CameraHead(nn.Module):
    """A frame's patches [n, P, C] -> what its pose is made of, [n, 9] and translation [n, 3]; float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.res_conv = nn.ModuleList(Residual(dim) for _ in range(2))
        self.more_mlps = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t = nn.Linear(dim, 3)
        self.fc_rot = nn.Linear(dim, 9)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        for residual in self.res_conv:
            patches = residual(patches)
        x = self.more_mlps(patches.mean(dim=1))
        return self.fc_rot(x).float(), self.fc_t(x).float()


def nearest_rotation(nine: Tensor) -> Tensor:
    """Nine numbers [..., 9] -> rotations [..., 3, 3]: rows of unit length, then the nearest rotation (Kabsch 1976).

    What isn't finite gives NaN. The gradient is that of the nearest rotation itself and not of the decomposition that
    finds it, which has none where singular values are equal, as those of a rotation are: from M = R S with S symmetric
    follows that dM turns R by w with (trace(S) - S) w = the axial vector of R'dM - dM'R.
    """
    rows = F.normalize(nine.unflatten(-1, (3, 3)), dim=-1)
    finite = rows.isfinite().all(-1).all(-1)[..., None, None]
    with torch.no_grad():
        u, _, vt = torch.linalg.svd(torch.where(finite, rows, torch.eye(3).to(rows)))
        sign = torch.ones_like(nine[..., :3])
        sign[..., 2] = torch.linalg.det(u @ vt).sign()  # the smallest singular value's direction is the one to flip
        rotation = (u * sign[..., None, :]) @ vt
    turned = rotation.mT @ torch.where(finite, rows, rotation)
    symmetric = (turned.detach() + turned.detach().mT) / 2
    resistance = symmetric.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] * torch.eye(3).to(rows) - symmetric
    skew = turned - turned.mT
    axial = torch.stack((skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]), dim=-1)
    w = (torch.linalg.pinv(resistance, rtol=_DEGENERATE, hermitian=True) @ axial[..., None])[..., 0]
    x, y, z = (w - w.detach()).unbind(-1)  # zero: only its gradient counts
    zero = torch.zeros_like(x)
    turn = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).unflatten(-1, (3, 3))
    return torch.where(finite, rotation + rotation @ turn, rotation.new_full((), torch.nan))


def lens(rays: Tensor) -> Tensor:
    """x and y of each pixel's ray (x, y, 1), [..., H, W, 2] -> intrinsics [..., 3, 3]; float32.

    The principal point is the image's middle; each focal length is that of least squares over all pixels with a finite
    ray, zero where there is none.
    """
    height, width = rays.shape[-3:-1]
    rays = torch.where(rays.isfinite().all(-1, keepdim=True), rays, 0).double()
    across, down = (torch.arange(n, device=rays.device).double() - (n - 1) / 2 for n in (width, height))
    pixels = torch.stack((across.expand(height, width), down[:, None].expand(height, width)), dim=-1)
    focal = (rays * pixels).sum((-3, -2)) / rays.square().sum((-3, -2)).clamp(min=_TINY)
    intrinsics = torch.diag_embed(F.pad(focal, (0, 1), value=1.0))
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = width / 2, height / 2
    return intrinsics.float()
