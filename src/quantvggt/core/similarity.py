"""Similarities of space: a turn, a shift and a scale, which a reconstruction from pictures leaves open."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantvggt.core.errors import InputError

Array = NDArray[np.float64]


class Similarity(NamedTuple):
    """x -> scale * rotation @ x + translation."""

    scale: float
    rotation: Array
    translation: Array

    def apply(self, points: Array) -> Array:
        """Move points [N, 3]."""
        return self.scale * points @ self.rotation.T + self.translation

    def after(self, first: "Similarity") -> "Similarity":
        """`first`, then this one."""
        turned = self.scale * self.rotation @ first.translation + self.translation
        return Similarity(self.scale * first.scale, self.rotation @ first.rotation, turned)

    def inverse(self) -> "Similarity":
        """The way back; the scale must not be 0."""
        rotation = self.rotation.T
        return Similarity(1 / self.scale, rotation, -(rotation @ self.translation) / self.scale)


IDENTITY = Similarity(1.0, np.eye(3), np.zeros(3))


def umeyama(source: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None, scaled: bool = True) -> Similarity:
    """The similarity that brings `source` [N, 3] nearest to `target` [N, 3] in (weighted) least squares.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991,
    eqs. 40-42; the rotation is always proper, also where a mirror image would fit better.
    weights: [N], not negative, not all 0. scaled: if not, the scale stays 1. A source without extent (all points equal)
    gets scale 0, so it lands on the target's mean.

    Raises InputError if the shapes differ, there is no point, or the weights are unusable.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3 or len(source) == 0:
        raise InputError(f"alignment needs two [N, 3] sets of one size, got {source.shape} and {target.shape}")
    weight = np.ones(len(source)) if weights is None else np.asarray(weights, np.float64)
    if weight.shape != (len(source),) or not (weight >= 0).all() or not 0 < weight.sum() < np.inf:
        raise InputError("alignment weights must be one finite number >= 0 per point, and not all 0")
    weight = weight / weight.sum()

    source_mean, target_mean = weight @ source, weight @ target
    centred = source - source_mean
    u, singular, vt = np.linalg.svd((target - target_mean).T @ (centred * weight[:, None]))
    proper = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * proper) @ vt
    variance = float(weight @ (centred**2).sum(1))
    scale = 1.0
    if scaled:
        scale = float(singular @ proper) / variance if variance > 0 else 0.0
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)
