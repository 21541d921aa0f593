"""A bent path and the spots that its frames share: bundle adjustment has to straighten it, by geometry alone."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quantvggt.core.similarity import umeyama
from quantvggt.reconstruction.bundle import Unrefined
from quantvggt.reconstruction.geometry import camera_centres, project
from quantvggt.reconstruction.long import path
from quantvggt.reconstruction.long.path import CameraPath, straightened
from quantvggt.reconstruction.long.spots import Spots, joined
from quantvggt.reconstruction.points import Tracks

pytest.importorskip("pycolmap")

COUNT, SIZE, FOCAL = 40, (96, 128), 110.0
RADIUS = 5.0


def around(turns: float = 1.0) -> CameraPath:
    """Cameras on a circle that look at its middle."""
    extrinsics = np.empty((COUNT, 3, 4))
    for frame, angle in enumerate(np.linspace(0, 2 * np.pi * turns, COUNT, endpoint=False)):
        back = np.array([np.cos(angle), 0.1 * np.sin(3 * angle), np.sin(angle)])
        z = -back / np.linalg.norm(back)
        x = np.cross([0.0, 1.0, 0.0], z)
        turn = np.stack([x / np.linalg.norm(x), np.cross(z, x / np.linalg.norm(x)), z])
        extrinsics[frame] = np.column_stack([turn, -turn @ (RADIUS * back)])
    lens = np.array([[FOCAL, 0, SIZE[1] / 2], [0, FOCAL, SIZE[0] / 2], [0, 0, 1]])
    places = np.arange(0, 3 * COUNT, 3)
    return CameraPath(places, extrinsics, np.repeat(lens[None], COUNT, 0), SIZE, np.ones(COUNT))


def spots_on(path: CameraPath, seed: int = 0, noise: float = 0.1) -> Spots:
    """What cameras next to each other see of points in the middle; their depth there, half as large as it is."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1.5, 1.5, (600, 3))
    seen: list[tuple[int, int, float, float, float]] = []
    for number, xyz in enumerate(points):
        first = int(rng.integers(COUNT))
        for frame in sorted({(first + step) % COUNT for step in range(6)}):
            xy, z = project(xyz, path.extrinsics[frame], path.intrinsics[frame])
            if (xy > 0).all() and (xy < SIZE[::-1]).all():
                x, y = xy + noise * rng.normal(size=2)
                seen.append((number, int(path.places[frame]), x, y, z / 2))
    values = np.array(seen)
    return Spots(Tracks(values[:, 0].astype(np.intp), values[:, 1].astype(np.intp), values[:, 2:4]), values[:, 4])


def bent(path: CameraPath, focal: float) -> CameraPath:
    """As a model that takes the lens for another one has it: steps turn by too much or too little, and add up."""
    extrinsics = path.extrinsics.copy()
    for frame in range(1, COUNT):
        angle = np.radians(0.35 * frame)
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        extrinsics[frame, :, :3] = extrinsics[frame, :, :3] @ turn.T
    intrinsics = path.intrinsics.copy()
    intrinsics[:, (0, 1), (0, 1)] *= focal
    return dataclasses.replace(path, extrinsics=extrinsics, intrinsics=intrinsics)


def off(found: CameraPath, truth: CameraPath) -> float:
    centres, wanted = camera_centres(found.extrinsics), camera_centres(truth.extrinsics)
    return float(np.sqrt(((umeyama(centres, wanted).apply(centres) - wanted) ** 2).sum(1).mean()))


def numbered(spots: Spots) -> Spots:
    """With points numbered without gaps, as `joined` numbers them."""
    _, number = np.unique(spots.tracks.point, return_inverse=True)
    return spots._replace(tracks=dataclasses.replace(spots.tracks, point=number))


def test_a_bent_path_is_straightened_and_its_one_lens_found() -> None:
    truth = around()
    start = bent(truth, 1.04)
    found, verdict = straightened(start, numbered(spots_on(truth)), one_lens=True)
    assert verdict.reason is None
    assert found is not None
    assert off(found, truth) < 0.1 * off(start, truth)
    np.testing.assert_allclose(found.intrinsics[:, 0, 0], FOCAL, rtol=0.005)
    np.testing.assert_allclose(found.intrinsics[:, 1, 1], FOCAL, rtol=0.005)
    np.testing.assert_array_equal(found.intrinsics[:, 0, 2], SIZE[1] / 2)
    # Depth was half of what it is in the truth's unit.
    unit = umeyama(camera_centres(truth.extrinsics), camera_centres(found.extrinsics)).scale
    np.testing.assert_allclose(found.depth_factors, 2 * unit, rtol=0.02)
    # It lies where the path lay: around its middle, as large.
    middles = [camera_centres(each.extrinsics).mean(0) for each in (found, start)]
    np.testing.assert_allclose(*middles, atol=1e-6)


def test_known_lenses_stay() -> None:
    truth = around(0.7)
    found, verdict = straightened(bent(truth, 1.0), numbered(spots_on(truth)), one_lens=False)
    assert verdict.reason is None
    assert found is not None
    assert off(found, truth) < 0.1 * off(bent(truth, 1.0), truth)
    np.testing.assert_array_equal(found.intrinsics, truth.intrinsics)


def without(spots: Spots, frames: list[int]) -> Spots:
    """What these frames see is left out, and points that then have one observation."""
    rest = ~np.isin(spots.tracks.frame, frames)
    tracks, depth = spots
    lengths = np.bincount(tracks.point[rest], minlength=tracks.point.max() + 1)
    rest &= lengths[tracks.point] > 1
    return numbered(Spots(Tracks(tracks.point[rest], tracks.frame[rest], tracks.xy[rest]), depth[rest]))


def test_a_frame_that_shares_nothing_goes_with_its_neighbour() -> None:
    truth = around()
    start = bent(truth, 1.0)
    found, _ = straightened(start, without(spots_on(truth), [int(truth.places[7])]), one_lens=True)
    assert found is not None

    def between(path: CameraPath) -> NDArray[np.float64]:
        first, second = (np.vstack([path.extrinsics[frame], [0, 0, 0, 1]]) for frame in (6, 7))
        return second @ np.linalg.inv(first)

    np.testing.assert_allclose(between(found), between(start), atol=1e-9)
    assert found.depth_factors[7] == found.depth_factors[6]


def test_what_cannot_be_shown_to_be_better_is_not_taken() -> None:
    truth = around()
    spots = numbered(spots_on(truth))
    found, verdict = straightened(truth, spots, one_lens=False)
    assert found is None
    assert verdict.reason is not None
    assert "hardly falls" in verdict.reason
    nothing = Spots(Tracks(*(np.zeros(0, np.intp),) * 2, np.zeros((0, 2))), np.zeros(0))
    found, verdict = straightened(truth, nothing, one_lens=True)
    assert found is None
    assert verdict.reason == "the pictures share no spots"


@pytest.mark.parametrize("how", ["raises", "not finite"])
def test_what_the_first_round_gained_outlives_a_second_that_fails(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, whole, rounds = around(), path.adjust, list[float]()
    start, spots = bent(truth, 1.04), numbered(spots_on(truth))

    def failing(model: Any, config: Any, loss_scale: float, lens: bool) -> None:
        whole(model, config, loss_scale, lens)
        rounds.append(loss_scale)
        if len(rounds) == fails:
            if how == "raises":
                raise Unrefined("the adjustment diverged")
            model.cameras[1].params = [np.nan, np.nan, 64, 48]

    monkeypatch.setattr(path, "adjust", failing)
    fails = 2
    found, verdict = straightened(start, spots, one_lens=True)
    assert len(rounds) == 2
    assert verdict.reason is None
    assert found is not None
    assert off(found, truth) < 0.2 * off(start, truth)
    rounds.clear()
    fails = 1
    found, verdict = straightened(start, spots, one_lens=True)
    assert (found, len(rounds)) == (None, 1)
    assert verdict.reason is not None
    assert "diverged" in verdict.reason or "not finite" in verdict.reason


def test_what_starts_in_one_pixel_is_one_point() -> None:
    one = Spots(
        Tracks(np.array([0, 0, 1, 1]), np.array([3, 4, 4, 5]), np.array([[1.5, 2.5], [9, 9], [1.5, 2.5], [4, 4]])),
        np.array([1.0, 2, 3, 4]),
    )
    other = Spots(Tracks(np.array([0, 0, 0]), np.array([4, 5, 7]), np.array([[1.5, 2.5], [6, 6], [7, 7]])), np.zeros(3))
    tracks, depth = joined([one, other])
    np.testing.assert_array_equal(tracks.point, [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(tracks.frame, [3, 4, 4, 5, 7])
    np.testing.assert_array_equal(tracks.xy, [[1.5, 2.5], [9, 9], [1.5, 2.5], [4, 4], [7, 7]])
    np.testing.assert_array_equal(depth, [1, 2, 3, 4, 0])
