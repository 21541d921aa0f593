"""Pinhole cameras in NumPy: pixels to points and back.

OpenCV convention: x right, y down, z forward; extrinsics [R | t] take the world to the camera. The top left
pixel is centred at (0.5, 0.5), so a camera made from a field of view has its principal point at (W/2, H/2)
and sees the same angle on both sides. (The published VGGT code unprojects whole pixel numbers with that
principal point, which shifts its point cloud by half a pixel.) Sums run in float64.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from quantvggt.models.pose import matrix_to_quaternion

TO_OPENGL = np.array([1.0, -1, -1])
"""A camera's axes in OpenGL's convention (x right, y up, z backward), as factors of ours."""
Array = NDArray[np.float32] | NDArray[np.float64]


def unproject(depth: Array, extrinsics: Array, intrinsics: Array) -> NDArray[np.float32]:
    """World points of every pixel.

    depth [S, H, W], z; extrinsics [S, 3, 4]; intrinsics [S, 3, 3] -> float32 [S, H, W, 3].
    """
    height, width = depth.shape[1:]
    y, x = np.mgrid[0:height, 0:width] + 0.5
    pixels = np.stack([x, y, np.ones_like(x)], axis=-1)
    points = np.empty((*depth.shape, 3), np.float32)
    for frame, (camera, lens) in enumerate(zip(extrinsics, intrinsics, strict=True)):
        rays = pixels @ np.linalg.inv(lens.astype(np.float64)).T
        rotation, translation = camera[:, :3].astype(np.float64), camera[:, 3].astype(np.float64)
        points[frame] = (rays * depth[frame, ..., None] - translation) @ rotation
    return points


def to_camera(points: Array, extrinsics: Array) -> NDArray[np.float64]:
    """World points [..., 3] in the frame of one camera, extrinsics [3, 4]."""
    camera = extrinsics.astype(np.float64)
    return points.astype(np.float64) @ camera[:, :3].T + camera[:, 3]


def project(points: Array, extrinsics: Array, intrinsics: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """World points [..., 3] -> pixels (x, y) [..., 2] and depth [...] in one camera; <= 0 is behind it."""
    seen = to_camera(points, extrinsics)
    depth = seen[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = (seen @ intrinsics.astype(np.float64).T)[..., :2] / depth[..., None]
    return pixels, depth


def camera_centres(extrinsics: Array) -> NDArray[np.float64]:
    """Extrinsics [S, 3, 4] -> where the cameras stand in the world [S, 3]."""
    cameras = extrinsics.astype(np.float64)
    return -np.einsum("sij,si->sj", cameras[:, :, :3], cameras[:, :, 3])


def frustum(extrinsics: Array, intrinsics: Array, width: int, height: int, length: float) -> NDArray[np.float64]:
    """A camera's pyramid [5, 3]: its centre, then the image corners at `length`, clockwise from top left."""
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], np.float64)
    in_camera = np.vstack([np.zeros(3), corners @ np.linalg.inv(intrinsics.astype(np.float64)).T * length])
    camera = extrinsics.astype(np.float64)
    return (in_camera - camera[:, 3]) @ camera[:, :3]


def quaternions(extrinsics: Array) -> NDArray[np.float64]:
    """Extrinsics [S, 3, 4] -> their rotations as unit quaternions xyzw [S, 4], scalar part >= 0."""
    rotations = torch.from_numpy(extrinsics[:, :, :3].astype(np.float64))
    return np.asarray(matrix_to_quaternion(rotations).numpy())


def invert(extrinsics: Array) -> NDArray[np.float64]:
    """World-to-camera [S, 3, 4] -> camera-to-world [S, 3, 4]."""
    rotation = extrinsics[:, :, :3].astype(np.float64).swapaxes(1, 2)
    return np.concatenate([rotation, camera_centres(extrinsics)[:, :, None]], axis=2)


def upright_axes(extrinsics: Array) -> NDArray[np.float64]:
    """The world's right, forward (away from the first camera) and up [3, 3], in rows.

    Up is where the cameras' own up directions point on average, but rather at right angles to their x axes:
    people pitch a camera up and down, and seldom roll it.
    """
    x_axes, y_axes = (extrinsics[:, row, :3].astype(np.float64) for row in (0, 1))
    up = np.linalg.solve(x_axes.T @ x_axes / len(x_axes) + 0.01 * np.eye(3), -y_axes.mean(0))
    up /= np.linalg.norm(up)
    right = x_axes[0] - (x_axes[0] @ up) * up
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(up, right), up])
