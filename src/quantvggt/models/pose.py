"""VGGT's pose encoding "absT_quaR_FoV": translation 3, quaternion xyzw 4, vertical and horizontal field of view.

Cameras are OpenCV (x right, y down, z forward), world-to-camera (Depth-Anything-3 encodes camera-to-world); intrinsics
have the principal point in the image's middle, pixel centres at +0.5.
"""

import torch
from torch import Tensor


def decode_pose(pose: Tensor, height: int, width: int, flattest: float | None = None) -> tuple[Tensor, Tensor]:
    """Pose [..., 9] -> extrinsics [..., 3, 4] and intrinsics [..., 3, 3] in pixels of a height x width image.

    flattest: half a field of view has at least this tangent, None: any.
    """
    translation, quaternion, fov = pose[..., :3], pose[..., 3:7], pose[..., 7:]
    extrinsics = torch.cat((quaternion_to_matrix(quaternion), translation[..., None]), dim=-1)
    size = pose.new_tensor([height, width])
    tangent = torch.tan(fov / 2)
    focal_y, focal_x = (size / 2 / (tangent if flattest is None else tangent.clamp(min=flattest))).unbind(-1)
    intrinsics = pose.new_zeros(*pose.shape[:-1], 3, 3)
    intrinsics[..., 0, 0], intrinsics[..., 1, 1] = focal_x, focal_y
    intrinsics[..., 0, 2], intrinsics[..., 1, 2], intrinsics[..., 2, 2] = width / 2, height / 2, 1
    return extrinsics, intrinsics


def encode_pose(extrinsics: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Extrinsics [..., 3, 4], intrinsics [..., 3, 3] -> pose [..., 9]; the quaternion's scalar part is >= 0."""
    size = extrinsics.new_tensor([height, width])
    focal = torch.stack((intrinsics[..., 1, 1], intrinsics[..., 0, 0]), dim=-1)
    quaternion = matrix_to_quaternion(extrinsics[..., :3])
    return torch.cat((extrinsics[..., 3], quaternion, 2 * torch.atan(size / 2 / focal)), dim=-1)


def invert(extrinsics: Tensor) -> Tensor:
    """World-to-camera [..., 3, 4] <-> camera-to-world."""
    back = extrinsics[..., :3].transpose(-1, -2)
    return torch.cat((back, -(back @ extrinsics[..., 3:])), dim=-1)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """What `inner` and then `outer` do, both [..., 3, 4]."""
    return torch.cat((outer[..., :3] @ inner[..., :3], outer[..., :3] @ inner[..., 3:] + outer[..., 3:]), dim=-1)


def scale_between(source: Tensor, target: Tensor) -> Tensor:
    """The scale of the similarity that takes the camera centres of `source` to those of `target`, both world-to-camera
    [S, 3, 4], with least squared error; 1 where either stand in one place, NaN where one isn't finite.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991.
    """
    a, b = (invert(extrinsics.double())[:, :, 3] for extrinsics in (source, target))
    a, b = a - a.mean(0), b - b.mean(0)
    spread = a.square().sum()
    if not (spread + b.square().sum()).isfinite():
        return torch.full_like(spread, torch.nan)
    left, stretch, right = torch.linalg.svd(b.T @ a)
    if torch.linalg.det(left @ right) < 0:
        stretch = stretch * stretch.new_tensor([1, 1, -1])
    scale = stretch.sum() / spread
    return scale if spread > 0 and scale > 0 else torch.ones_like(scale)


def fields_of_view(intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Vertical and horizontal [..., 2], in radians."""
    focal = torch.stack((intrinsics[..., 1, 1], intrinsics[..., 0, 0]), dim=-1)
    return 2 * torch.atan2(focal.new_tensor([height, width]) / 2, focal)


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """Quaternion xyzw [..., 4], of any length but zero -> rotation [..., 3, 3]."""
    x, y, z, w = quaternion.unbind(-1)
    s = 2 / quaternion.square().sum(-1)
    rows = (
        1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w),
        s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w),
        s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def matrix_to_quaternion(rotation: Tensor) -> Tensor:
    """Rotation [..., 3, 3] -> unit quaternion xyzw [..., 4] with scalar part >= 0.

    Of the four equivalent formulas (Shepperd 1978) the one with the largest divisor is taken.
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in rotation.unbind(-2))
    squares = torch.stack(
        (1 + a - e - i, 1 - a + e - i, 1 - a - e + i, 1 + a + e + i), dim=-1
    )  # 4 x^2, 4 y^2, 4 z^2, 4 w^2
    candidates = torch.stack(
        (
            torch.stack((squares[..., 0], b + d, c + g, h - f), dim=-1),
            torch.stack((b + d, squares[..., 1], f + h, c - g), dim=-1),
            torch.stack((c + g, f + h, squares[..., 2], d - b), dim=-1),
            torch.stack((h - f, c - g, d - b, squares[..., 3]), dim=-1),
        ),
        dim=-2,
    )
    best = squares.argmax(dim=-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quaternion = torch.nn.functional.normalize(candidates.gather(-2, best).squeeze(-2), dim=-1)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
