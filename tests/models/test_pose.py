"""The pose encoding against SciPy's rotations and the pinhole formula."""

import math

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from quantvggt.models.pose import decode_pose, encode_pose, matrix_to_quaternion, quaternion_to_matrix


def rotations(count: int) -> Rotation:
    """Random ones, and turns of exactly and nearly 180 degrees, where quaternions change sign."""
    rng = np.random.default_rng(0)
    axes = rng.standard_normal((20, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    half_turns = Rotation.from_rotvec(np.concatenate((axes * np.pi, axes * (np.pi - 1e-7), np.eye(3) * np.pi)))
    return Rotation.concatenate([Rotation.random(count, rng=0), half_turns, Rotation.identity(1)])


def test_quaternions_are_scipys() -> None:
    truth = rotations(200)
    matrices = torch.from_numpy(truth.as_matrix())
    quaternions = matrix_to_quaternion(matrices)
    assert (quaternions[:, 3] >= 0).all()
    torch.testing.assert_close(quaternions.norm(dim=-1), torch.ones(len(matrices), dtype=torch.float64))
    same = (quaternions * torch.from_numpy(truth.as_quat())).sum(-1).abs()
    torch.testing.assert_close(same, torch.ones_like(same))
    torch.testing.assert_close(quaternion_to_matrix(torch.from_numpy(truth.as_quat()) * 3), matrices)


def test_encoding_round_trip() -> None:
    truth = rotations(50)
    count = len(truth)
    translation = torch.randn(count, 3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    extrinsics = torch.cat((torch.from_numpy(truth.as_matrix()), translation), dim=-1)
    intrinsics = torch.zeros(count, 3, 3, dtype=torch.float64)
    intrinsics[:, 0, 0], intrinsics[:, 1, 1], intrinsics[:, 2, 2] = 300, 320, 1
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = 259, 196
    decoded = decode_pose(encode_pose(extrinsics, intrinsics, 392, 518), 392, 518)
    torch.testing.assert_close(decoded[0], extrinsics)
    torch.testing.assert_close(decoded[1], intrinsics)


def test_field_of_view_is_that_of_the_pinhole() -> None:
    pose = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, math.radians(60), math.radians(90)])
    _, intrinsics = decode_pose(pose, 100, 200)
    torch.testing.assert_close(intrinsics[0, 0], torch.tensor(100.0))  # half of 200 over tan 45 degrees
    torch.testing.assert_close(intrinsics[1, 1], torch.tensor(50 / math.tan(math.radians(30))))
