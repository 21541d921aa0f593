"""Pixels to points and back, on shapes whose points are known without the code under test."""

import numpy as np

from quantvggt.reconstruction.geometry import camera_centres, frustum, project, to_camera, unproject

LENS = np.array([[90.0, 0, 32], [0, 80, 24], [0, 0, 1]])  # 64 x 48 pixels


def turned(yaw: float, pitch: float, position: tuple[float, float, float]) -> np.ndarray:
    """World-to-camera of a camera standing at `position`."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    around_y = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    cos, sin = np.cos(pitch), np.sin(pitch)
    around_x = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    rotation = around_x @ around_y
    return np.hstack([rotation, -rotation @ np.array(position)[:, None]])


def rays(camera: np.ndarray) -> np.ndarray:
    """World directions through the pixel centres, scaled to camera z = 1: [48, 64, 3]."""
    rows, columns = np.indices((48, 64))
    x, y = (columns + 0.5 - 32) / 90, (rows + 0.5 - 24) / 80
    return np.stack([x, y, np.ones_like(x)], -1) @ camera[:, :3]


def test_a_plane_comes_out_flat_and_where_it_is() -> None:
    normal, offset = np.array([0.2, -0.3, 1.0]), 5.0  # normal . x = offset
    places = [(1, 0.5, -2), (-1, 0, -1)]
    cameras = np.stack([turned(0.3, -0.1, places[0]), turned(-0.2, 0.2, places[1])])
    depth = np.stack(
        [(offset - normal @ place) / (rays(view) @ normal) for view, place in zip(cameras, places, strict=True)]
    )
    points = unproject(depth, cameras, np.stack([LENS, LENS]))
    assert points.dtype == np.float32
    np.testing.assert_allclose(points @ normal, offset, atol=1e-5)


def test_a_sphere_comes_out_round() -> None:
    position = np.array([0.2, -0.1, -4.0])
    camera = turned(0.05, 0.02, tuple(position))
    direction = rays(camera)
    # |position + z * direction| = 1, the nearer solution
    a, b, c = (direction**2).sum(-1), 2 * direction @ position, position @ position - 1
    hit = b**2 > 4 * a * c
    depth = np.where(hit, (-b - np.sqrt(np.maximum(b**2 - 4 * a * c, 0))) / (2 * a), 0)
    assert hit.sum() > 500
    points = unproject(depth[None], camera[None], LENS[None])[0][hit]
    np.testing.assert_allclose(np.linalg.norm(points, axis=-1), 1, atol=1e-5)


def test_projecting_returns_to_the_pixel_centres() -> None:
    camera = turned(0.4, 0.3, (1, 2, 3))
    depth = np.random.default_rng(0).uniform(1, 9, (1, 48, 64))
    pixels, back = project(unproject(depth, camera[None], LENS[None])[0], camera, LENS)
    rows, columns = np.indices((48, 64))
    np.testing.assert_allclose(pixels, np.stack([columns + 0.5, rows + 0.5], -1), atol=1e-3)
    np.testing.assert_allclose(back, depth[0], rtol=1e-5)


def test_camera_centres_and_frustum() -> None:
    cameras = np.stack([turned(0.4, 0.3, (1, 2, 3)), turned(-1, 0, (0, -1, 2))])
    np.testing.assert_allclose(camera_centres(cameras), [[1, 2, 3], [0, -1, 2]], atol=1e-12)
    corners = frustum(cameras[0], LENS, 64, 48, length=0.5)
    np.testing.assert_allclose(corners[0], [1, 2, 3], atol=1e-12)
    pixels, depth = project(corners[1:], cameras[0], LENS)
    np.testing.assert_allclose(depth, 0.5)
    np.testing.assert_allclose(pixels, [[0, 0], [64, 0], [64, 48], [0, 48]], atol=1e-9)
    assert to_camera(np.array([1.0, 2, 3]), cameras[0]).round(9).tolist() == [0, 0, 0]
