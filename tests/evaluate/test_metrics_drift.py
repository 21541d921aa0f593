"""Drift: nothing for the same outputs, the known amount for outputs moved by a known amount."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from quantvggt.evaluate.metrics.drift import drift

RNG = np.random.default_rng(3)


def cameras(frames=5):
    rotation = Rotation.random(frames, random_state=RNG).as_matrix()
    return np.concatenate([rotation, RNG.normal(size=(frames, 3, 1))], axis=2)


POSES = [cameras(), cameras()]
DEPTHS = [RNG.uniform(1, 4, (5, 6, 7)) for _ in POSES]


def test_the_same_outputs_do_not_drift():
    assert max(drift(POSES, DEPTHS, POSES, DEPTHS)) < 1e-12


def test_a_whole_scene_scaled_does_not_drift():
    scaled = [pose * [1, 1, 1, 3.0] for pose in POSES]
    assert max(drift(scaled, [3 * depth for depth in DEPTHS], POSES, DEPTHS)) < 1e-12


def test_turned_cameras_drift_by_their_angle():
    # Two frames a clip, the second camera turned by 2 degrees about its own axis: one pair, off by 2.
    reference = [cameras(2) for _ in range(3)]
    turned = [pose.copy() for pose in reference]
    for pose in turned:
        pose[1, :, :3] = Rotation.from_euler("y", 2, degrees=True).as_matrix() @ pose[1, :, :3]
    depths = [np.ones((2, 3, 3))] * 3
    assert drift(turned, depths, reference, depths).rotation_deg == pytest.approx(2)


def test_depth_drift_is_the_median_change():
    factor = np.where(RNG.permutation(DEPTHS[0].size) % 2, 1.1, 0.9).reshape(DEPTHS[0].shape)
    change = drift(POSES, [depth * factor for depth in DEPTHS], POSES, DEPTHS).depth
    assert change == pytest.approx(0.1, abs=0.03)
