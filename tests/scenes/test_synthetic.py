"""The synthetic scenes' ground truth against geometry worked out independently of the ray caster."""

import numpy as np
import pytest
import torch

from quantvggt.core.errors import InputError
from quantvggt.scenes.raycast import GROUND_RADIUS, Ground, Solid, render
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clip, make_clips

GROUND = Ground(cell=0.8, contrast=0.2, noise_seed=1, phase=(0.0, 0.0))
INTRINSICS = np.array([[100.0, 0, 56], [0, 100.0, 56], [0, 0, 1]])


def looking_down(height: float) -> np.ndarray:
    """World-to-camera of a camera above the origin that looks straight down."""
    return np.array([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, height]])


def solid(kind: str, centre: tuple[float, float, float], half: tuple[float, float, float]) -> Solid:
    colours = (np.array([1.0, 0, 0]), np.array([0.0, 0, 1]))
    return Solid(kind, centre, half, 0.0, colours, "plain", 2.0, 1, False)


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not() -> None:
    first, _, again = make_clips([5, 6, 5], frames=3, size=56)
    assert first.images.equal(again.images)
    assert first.truth is not None
    assert again.truth is not None
    assert first.truth.depth.equal(again.truth.depth)
    assert first.truth.extrinsics.equal(again.truth.extrinsics)
    assert not first.images.equal(make_clip(6, frames=3, size=56).images)


@pytest.mark.parametrize(("size", "height", "width"), [(56, 56, 56), ((84, 126), 84, 126)])
def test_shapes_ranges_and_names(size: int | tuple[int, int], height: int, width: int) -> None:
    clip = make_clip(HELD_OUT_SEED, frames=2, size=size)
    assert clip.truth is not None
    assert clip.images.shape == (2, 3, height, width)
    assert 0 <= clip.images.min() < clip.images.max() <= 1
    assert clip.truth.depth.shape == (2, height, width)
    assert clip.truth.extrinsics.shape == (2, 3, 4)
    assert clip.truth.intrinsics.shape == (2, 3, 3)
    assert clip.truth.intrinsics[0, 0, 2] == width / 2
    assert clip.truth.intrinsics[0, 1, 2] == height / 2
    assert len(set(clip.names)) == 2


def test_cameras_are_rigid_and_look_at_the_scene() -> None:
    truth = make_clip(3, frames=8, size=14).truth
    assert truth is not None
    rotation, translation = truth.extrinsics[..., :3].double(), truth.extrinsics[..., 3].double()
    identity = torch.eye(3).double().expand(8, 3, 3)
    torch.testing.assert_close(rotation @ rotation.mT, identity, atol=1e-6, rtol=0)
    assert (torch.linalg.det(rotation) > 0).all()
    eyes = -(rotation.mT @ translation[..., None])[..., 0]
    assert (eyes[:, 2] > 0.5).all()
    assert (translation[:, 2] > 2).all()  # the origin lies in front of every camera


def test_depth_of_one_view_explains_the_others() -> None:
    """Lift every pixel of view a to the world, project it into view b: the depth found there must agree,
    unless something nearer hides the point."""
    checked = 0
    for seed in (11, 12):
        truth = make_clip(seed, frames=4, size=112).truth
        assert truth is not None
        for a in range(4):
            for b in range(4):
                expected, found = reproject(truth, a, b)
                close = (found - expected).abs() < 0.01 * expected
                nearer = found < expected  # occluded
                assert (close | nearer).float().mean() > 0.99
                if a == b:
                    assert close.float().mean() > 0.99
                else:
                    checked += int(close.sum())
    assert checked > 20_000


def reproject(truth, a: int, b: int) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[no-untyped-def]
    """Depths in view b of the surface points of view a: as computed from a, and as rendered around in b."""
    depth = truth.depth.double()
    height, width = depth.shape[1:]
    y, x = torch.nonzero(depth[a], as_tuple=True)
    pixel = torch.stack([x + 0.5, y + 0.5, torch.ones_like(x)], -1).double()
    point = (pixel @ truth.intrinsics[a].double().inverse().T) * depth[a][y, x, None]
    rotation, translation = truth.extrinsics[..., :3].double(), truth.extrinsics[..., 3].double()
    point = (point - translation[a]) @ rotation[a]
    point = point @ rotation[b].T + translation[b]
    projected = point @ truth.intrinsics[b].double().T
    column, row = (projected[:, :2] / projected[:, 2:] - 0.5).unbind(-1)
    inside = (column.clamp(0, width - 1.001) == column) & (row.clamp(0, height - 1.001) == row) & (point[:, 2] > 0)
    column, row, expected = column[inside], row[inside], point[inside, 2]
    # Inverse depth is linear in the image on a plane, so interpolate that; skip cells across an edge or sky.
    left, top = column.floor().long(), row.floor().long()
    corners = torch.stack([depth[b][top + i, left + j] for i in (0, 1) for j in (0, 1)], -1)
    smooth = (corners.amin(-1) > 0) & (corners.amax(-1) < 1.04 * corners.amin(-1))
    u, v = column - left, row - top
    weights = torch.stack([(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u], -1)
    found = 1 / (weights / corners.clamp_min(1e-6)).sum(-1)
    return expected[smooth], found[smooth]


def test_ground_seen_from_above_has_the_cameras_height_as_depth() -> None:
    image, depth = render([], GROUND, looking_down(4.0), INTRINSICS, 112, 112)
    np.testing.assert_allclose(depth, 4.0, rtol=1e-6)
    assert image.std() > 5  # it is textured


def test_beyond_the_ground_is_sky_of_depth_zero() -> None:
    _, depth = render([], GROUND, looking_down(20.0), INTRINSICS, 112, 112)
    y, x = np.mgrid[0:112, 0:112] + 0.5 - 56
    radius = 20.0 * np.hypot(x, y) / 100
    assert (depth[radius > GROUND_RADIUS * 1.001] == 0).all()
    np.testing.assert_allclose(depth[radius < GROUND_RADIUS * 0.999], 20.0, rtol=1e-6)


def test_sphere_depth_is_the_analytic_one() -> None:
    ball = solid("sphere", (0.3, -0.2, 1.0), (0.5, 0.5, 0.5))
    _, depth = render([ball], GROUND, looking_down(5.0), INTRINSICS, 112, 112)
    y, x = (np.mgrid[0:112, 0:112] + 0.5 - 56) / 100
    ray = np.stack([x, y, np.ones_like(x)], -1)
    centre = np.array([0.3, 0.2, 4.0])  # in the camera's frame
    a, b, c = (ray**2).sum(-1), ray @ centre, centre @ centre - 0.25
    hit = b * b > a * c
    expected = np.where(hit, (b - np.sqrt(np.where(hit, b * b - a * c, 0))) / a, 5.0)
    assert hit.sum() > 300
    np.testing.assert_allclose(depth, expected, rtol=1e-4)


@pytest.mark.parametrize(("kind", "area"), [("box", 1.2 * 0.8), ("cylinder", np.pi * 0.6**2)])
def test_tops_of_upright_solids(kind: str, area: float) -> None:
    half = (0.6, 0.4, 0.7) if kind == "box" else (0.6, 0.6, 0.7)
    _, depth = render([solid(kind, (0, 0, 0.7), half)], GROUND, looking_down(5.0), INTRINSICS, 112, 112)
    top = np.isclose(depth, 3.6, rtol=1e-5)
    assert depth.min() > 3.599
    assert top.sum() * (3.6 / 100) ** 2 == pytest.approx(area, rel=0.05)


def test_the_nearer_solid_hides_the_other() -> None:
    low, high = solid("box", (0, 0, 0.5), (1, 1, 0.5)), solid("box", (0, 0, 1.5), (0.2, 0.2, 0.5))
    for order in ([low, high], [high, low]):
        _, depth = render(order, GROUND, looking_down(5.0), INTRINSICS, 112, 112)
        assert depth[56, 56] == pytest.approx(3.0)
        assert depth[56, 40] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [((-1,), "seed"), ((1, 0), "frames"), ((1, 2, 100), "height"), ((1, 2, (112, 50)), "width")],
)
def test_bad_arguments_are_named(arguments: tuple, word: str) -> None:
    with pytest.raises(InputError, match=word):
        make_clip(*arguments)
