"""The sampling strategies by name: which clips of a pool a quantizer should learn from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantvggt.calibrate.sampling.cluster import Indices, draw_evenly, groups_of, kmeans
from quantvggt.calibrate.sampling.features import PoolFeatures
from quantvggt.calibrate.sampling.noise import Flags, keep_by_iqr, keep_by_percentile, noise_scores
from quantvggt.core.errors import InputError

RULES = ("percentile", "iqr", "iqr-unused")
CORRELATIONS = ("flattened", "tokenwise")


@dataclass(frozen=True)
class Strategy:
    """filters: drop noisy clips first; groups: what the draw is even over ("" for a uniform draw)."""

    filters: bool
    groups: str = ""


STRATEGIES = {
    "nfds": Strategy(filters=True, groups="correlation"),
    "random": Strategy(filters=False),
    "filtered": Strategy(filters=True),
    "clustered": Strategy(filters=False, groups="correlation"),
    "label": Strategy(filters=True, groups="label"),
    "feature": Strategy(filters=True, groups="feature"),
}
"""nfds is the method; each other one leaves out or replaces a part of it. label and feature keep the filter and replace
the correlation vectors by the clip's label or its plain feature vector (drop=0 for either without a filter)."""


@dataclass(frozen=True)
class SamplingSettings:
    """How the strategies filter and cluster; the defaults are the paper's.

    clusters: K of K-Means (the published code's default is 5).
    rule: "percentile" (paper); "iqr" (published code: 1.5 IQR within each label); "iqr-unused" (what the published code
        in fact does: it computes that rule, then clusters every clip whether it passed or not).
    drop: for "percentile", the share of the pool that goes; see `noise.keep_by_percentile` on the paper's p.
    correlation: "flattened" (paper) or "tokenwise" (published code); see `features.first_frame_correlations`.
    """

    clusters: int = 8
    rule: str = "percentile"
    drop: float = 0.2
    correlation: str = "flattened"

    def __post_init__(self) -> None:
        for name, value, known in (("rule", self.rule, RULES), ("correlation", self.correlation, CORRELATIONS)):
            if value not in known:
                raise InputError(f"unknown {name} {value!r}; choose one of: {', '.join(known)}")
        if self.clusters < 1:
            raise InputError(f"clusters is {self.clusters}; ask for at least 1")
        if not 0 <= self.drop < 1:
            raise InputError(f"drop is {self.drop}; give the share of the pool to drop, from 0 to below 1")


@dataclass(frozen=True, eq=False)
class Choice:
    """What a strategy made of a pool of n clips.

    indices: int64 [size], ascending, the chosen clips' places in the pool. scores: float64 [n]. kept: bool [n], what
    passed the filter. clusters: int64 [n], the group each clip was drawn from, -1 where there is none.
    thresholds: the highest score that passes: {"all": T}, or one for each label with an IQR rule; {} without a filter.
    """

    indices: Indices
    scores: NDArray[np.float64]
    kept: Flags
    clusters: Indices
    thresholds: dict[str, float]


def find_strategy(name: str) -> Strategy:
    """Raises InputError on an unknown name."""
    if name not in STRATEGIES:
        raise InputError(f"unknown sampling strategy {name!r}; choose one of: {', '.join(STRATEGIES)}")
    return STRATEGIES[name]


def choose(
    features: PoolFeatures,
    size: int = 40,
    strategy: str = "nfds",
    seed: int = 0,
    settings: SamplingSettings | dict[str, Any] | None = None,
) -> Choice:
    """Draw `size` clips of a pool. Costs no pass of the model; the same arguments give the same clips.

    seed: of the draw. The filter and the clusters follow from the pool alone.
    Raises InputError on an unknown strategy or setting, or if fewer than `size` clips are left to draw from.
    """
    plan = find_strategy(strategy)
    settings = as_settings(settings)
    if size < 1:
        raise InputError(f"size is {size}; ask for at least 1 clip")
    scores = noise_scores(features.means, features.variances)
    kept, thresholds = _filter(scores, features, settings) if plan.filters else (np.ones(len(scores), bool), {})
    candidates = np.arange(len(scores)) if settings.rule == "iqr-unused" else np.flatnonzero(kept)
    if size > len(candidates):
        dropped = len(scores) - len(candidates)
        raise InputError(
            f"{size} clips were asked for, but {len(candidates)} are left of a pool of {len(scores)} after dropping "
            f"{dropped}; give a larger pool, or ask for fewer"
        )
    clusters = np.full(len(scores), -1)
    if plan.groups:
        clusters[candidates] = _group(features, candidates, plan.groups, settings)
    indices = candidates[draw_evenly(clusters[candidates], size, np.random.default_rng(seed))]
    return Choice(indices, scores, kept, clusters, thresholds)


def as_settings(settings: SamplingSettings | dict[str, Any] | None) -> SamplingSettings:
    """Settings from their names. Raises InputError on an unknown name or an impossible value."""
    if isinstance(settings, SamplingSettings):
        return settings
    try:
        return SamplingSettings(**(settings or {}))
    except TypeError as error:
        known = ", ".join(SamplingSettings.__dataclass_fields__)
        raise InputError(f"sampling settings {settings} don't fit ({error}); known are: {known}") from error


def _filter(
    scores: NDArray[np.float64], features: PoolFeatures, settings: SamplingSettings
) -> tuple[Flags, dict[str, float]]:
    if settings.rule == "percentile":
        kept, threshold = keep_by_percentile(scores, settings.drop)
        return kept, {"all": threshold}
    return keep_by_iqr(scores, features.labels)


def _group(features: PoolFeatures, candidates: Indices, groups: str, settings: SamplingSettings) -> Indices:
    if groups == "label":
        return groups_of([features.labels[index] for index in candidates])
    vectors = features.pooled if groups == "feature" else getattr(features, settings.correlation)
    return kmeans(vectors[candidates], settings.clusters)
