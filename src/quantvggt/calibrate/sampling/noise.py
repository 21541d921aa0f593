"""Which clips of a pool are noise: the filter half of NFDS (arXiv 2509.21302)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.errors import InputError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def noise_scores(means: Floats, variances: Floats) -> Floats:
    """How unusual each clip's deep activations are within its pool: float64 [n], 0 for a clip like the average.

    score_i = sum_j ((m_ij - mu_j) / sigma_j)^2 + sum_j ((s_ij - nu_j) / tau_j)^2, where m and s [n, L] are the mean and
    the variance of clip i's activation in deep layer j, and mu, sigma, nu and tau are mean and standard deviation (the
    population's) of either over the pool. A layer on which all clips agree says nothing and adds 0.
    """
    return np.asarray(_squared_deviations(means) + _squared_deviations(variances))


def keep_by_percentile(scores: Floats, drop: float) -> tuple[Flags, float]:
    """The paper's rule: keep clips whose score is at most T, the (1 - drop) quantile of the pool's scores.

    drop: the share of the pool that goes. The paper gives p = 0.2 as its best and doesn't say plainly whether that
    share is dropped or kept; dropped is what we take (0.2, the default). The other reading is drop = 0.8.
    Returns (bool [n], T). Raises InputError unless 0 <= drop < 1.
    """
    if not 0 <= drop < 1:
        raise InputError(f"drop is {drop}; give the share of the pool to drop, from 0 (keep all) to below 1")
    threshold = float(np.quantile(scores, 1 - drop))
    return scores <= threshold, threshold


def keep_by_iqr(scores: Floats, labels: Sequence[str]) -> tuple[Flags, dict[str, float]]:
    """The published code's rule: within each label, keep scores up to Q3 + 1.5 (Q3 - Q1).

    Only high scores are noise, so there is no lower fence. Returns (bool [n], the fence of each label).
    """
    kept, fences = np.ones(len(scores), dtype=bool), {}
    of = np.asarray(labels)
    for label in sorted(set(labels)):
        low, high = np.quantile(scores[of == label], (0.25, 0.75))
        fences[label] = float(high + 1.5 * (high - low))
        kept[of == label] = scores[of == label] <= fences[label]
    return kept, fences


def _squared_deviations(values: Floats) -> Floats:
    """Sum over layers of squared standardised values: [n, L] -> [n]."""
    deviation, spread = values - values.mean(0), values.std(0)
    # A constant column's spread comes out as rounding noise rather than 0.
    speaks = spread > 1e-12 * np.abs(values).max(0)
    return np.asarray(np.square(deviation[:, speaks] / spread[speaks]).sum(1))
