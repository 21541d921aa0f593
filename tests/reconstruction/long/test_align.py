"""The similarity between two chunks: exact from exact points, and hardly touched by wrong ones."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from quantvggt.core.errors import QuantVGGTError
from quantvggt.core.similarity import Similarity
from quantvggt.reconstruction.long.align import align

TRUTH = Similarity(1.7, Rotation.from_rotvec([0.3, -0.8, 0.4]).as_matrix(), np.array([0.5, -2.0, 1.0]))


def points(count: int = 400) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 3)) * [1, 2, 0.5]


def test_exact_points_give_the_exact_similarity() -> None:
    source = points()
    found = align(source, TRUTH.apply(source), np.ones(len(source)))
    assert found.scale == pytest.approx(TRUTH.scale, rel=1e-12)
    np.testing.assert_allclose(found.rotation, TRUTH.rotation, atol=1e-12)
    np.testing.assert_allclose(found.translation, TRUTH.translation, atol=1e-11)


def test_wrong_points_hardly_matter() -> None:
    """A fifth of the points far off, all to one side: least squares would follow them."""
    source, rng = points(), np.random.default_rng(2)
    target = TRUTH.apply(source) + rng.normal(size=source.shape) * 0.005
    target[::5] += [3.0, 1.0, 0.0]
    found = align(source, target, np.ones(len(source)))
    assert found.scale == pytest.approx(TRUTH.scale, rel=0.01)
    assert np.degrees(Rotation.from_matrix(found.rotation @ TRUTH.rotation.T).magnitude()) < 0.5
    np.testing.assert_allclose(found.translation, TRUTH.translation, atol=0.03)


def test_points_without_weight_do_not_count() -> None:
    source = points()
    target, weights = TRUTH.apply(source), np.ones(len(source))
    target[:100], weights[:100] = 50.0, 0.0
    np.testing.assert_allclose(align(source, target, weights).rotation, TRUTH.rotation, atol=1e-12)


def test_points_in_one_place_are_an_error() -> None:
    with pytest.raises(QuantVGGTError, match="no extent"):
        align(np.ones((9, 3)), points(9), np.ones(9))
