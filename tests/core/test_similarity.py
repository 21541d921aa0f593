"""Similarities one after the other, and back."""

import numpy as np
from scipy.spatial.transform import Rotation

from quantvggt.core.similarity import Similarity


def drawn(seed: int) -> Similarity:
    rng = np.random.default_rng(seed)
    return Similarity(rng.uniform(0.3, 3), Rotation.random(rng=rng).as_matrix(), rng.normal(size=3))


def test_after_applies_the_other_first() -> None:
    points, first, second = np.random.default_rng(1).normal(size=(9, 3)), drawn(2), drawn(3)
    np.testing.assert_allclose(second.after(first).apply(points), second.apply(first.apply(points)), atol=1e-12)


def test_the_inverse_leads_back() -> None:
    points, motion = np.random.default_rng(4).normal(size=(9, 3)), drawn(5)
    np.testing.assert_allclose(motion.inverse().apply(motion.apply(points)), points, atol=1e-12)
    np.testing.assert_allclose(motion.apply(motion.inverse().apply(points)), points, atol=1e-12)
