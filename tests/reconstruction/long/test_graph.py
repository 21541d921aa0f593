"""The graph of chunks, against problems whose solution is known in closed form."""

import numpy as np
from scipy.spatial.transform import Rotation

from quantvggt.core.similarity import IDENTITY, Similarity
from quantvggt.reconstruction.long.graph import Edge, solve


def step(*shift: float, scale: float = 1.0, turn: float = 0.0) -> Similarity:
    return Similarity(scale, Rotation.from_rotvec([0, 0, turn]).as_matrix(), np.array(shift))


def test_a_chain_is_its_own_solution() -> None:
    motion = step(1.0, 0.5, 0.0, scale=1.1, turn=0.3)
    worlds = solve([Edge(k, k + 1, motion, 1.0) for k in range(4)], 5)
    expected = IDENTITY
    for world in worlds:
        np.testing.assert_allclose(world.rotation, expected.rotation, atol=1e-12)
        np.testing.assert_allclose(world.translation, expected.translation, atol=1e-12)
        expected = expected.after(motion)


def test_a_loop_spreads_its_error_evenly() -> None:
    """Four steps of 1 that should come to 4.1, all alike: every edge takes a fifth of the 0.1 that is missing.

    Chunks are 50 times as large as the steps, so turning or scaling one costs more than it helps.
    """
    edges = [*(Edge(k, k + 1, step(1.0, 0.0, 0.0), 50.0) for k in range(4)), Edge(0, 4, step(4.1, 0.0, 0.0), 50.0)]
    worlds = solve(edges, 5)
    for k, world in enumerate(worlds):
        np.testing.assert_allclose(world.translation, [1.02 * k, 0, 0], atol=5e-4)
        np.testing.assert_allclose(world.rotation, np.eye(3), atol=1e-5)


def test_scales_around_a_loop_are_spread_evenly_too() -> None:
    """Their logarithms are: four steps without a shift that grow by 1 % each, and return to 1."""
    grow = step(0.0, 0.0, 0.0, scale=1.01)
    edges = [*(Edge(k, k + 1, grow, 1.0) for k in range(4)), Edge(0, 4, IDENTITY, 1.0)]
    for k, world in enumerate(solve(edges, 5)):
        np.testing.assert_allclose(np.log(world.scale), k * np.log(1.01) / 5, atol=1e-5)


def test_a_circle_that_drifts_is_closed() -> None:
    """Twelve steps of 30 degrees around a circle, each a degree too few; a last edge says that the ends meet."""
    count = 12
    exact = step(1.0, 0.0, 0.0, turn=2 * np.pi / count)
    drifting = step(1.0, 0.0, 0.0, turn=2 * np.pi / count - np.radians(1))
    chain = [Edge(k, k + 1, drifting, 1.0) for k in range(count - 1)]
    closed = solve([*chain, Edge(0, count - 1, exact.inverse(), 1.0)], count)
    truth = [IDENTITY]
    for _ in range(count - 1):
        truth.append(truth[-1].after(exact))

    def error(worlds: list[Similarity]) -> float:
        return max(np.linalg.norm(a.translation - b.translation) for a, b in zip(worlds, truth, strict=True))

    assert error(solve(chain, count)) > 5 * error(closed)


def test_one_wrong_edge_does_not_tear_the_rest_apart() -> None:
    right = [Edge(k, k + 1, step(1.0, 0.0, 0.0), 1.0) for k in range(6)]
    right += [Edge(k, k + 2, step(2.0, 0.0, 0.0), 1.0) for k in range(5)]
    worlds = solve([*right, Edge(0, 6, step(0.0, 0.0, 9.0, turn=2.0), 1.0)], 7)
    assert np.linalg.norm(worlds[6].translation - [6, 0, 0]) < 1.0
