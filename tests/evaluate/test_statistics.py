"""Bootstrap intervals and paired differences against the closed forms for means of normal values."""

import numpy as np
import pytest

from quantvggt.evaluate.protocols.published import PROTOCOLS
from quantvggt.evaluate.statistics import bootstrap, paired_difference

RNG = np.random.default_rng(31)
NAMES = [str(number) for number in range(200)]


def mean_of(values):
    by_name = dict(zip(NAMES, values, strict=True))
    return lambda names: {"mean": float(np.mean([by_name[name] for name in names]))}


def test_the_interval_of_a_mean_is_that_of_its_closed_form():
    values = RNG.normal(5, 2, 200)
    low, high = bootstrap(NAMES, mean_of(values), resamples=4000)["mean"]
    half = 1.96 * values.std() / np.sqrt(200)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    narrow = bootstrap(NAMES, mean_of(values), resamples=4000, confidence=0.6827)["mean"]
    assert narrow.high - narrow.low == pytest.approx(2 * values.std() / np.sqrt(200), rel=0.1)


def test_intervals_hold_the_true_mean_as_often_as_they_say():
    held = 0
    for seed in range(150):
        values = np.random.default_rng(seed).normal(0, 1, 200)
        low, high = bootstrap(NAMES, mean_of(values), seed, resamples=200)["mean"]
        held += low < 0 < high
    assert 0.88 < held / 150 < 0.99


def test_what_is_common_to_both_cancels_in_a_paired_difference():
    hard = RNG.normal(0, 10, 200)
    own = RNG.normal(0.5, 1, 200)
    found = paired_difference(NAMES, mean_of(hard + own), mean_of(hard), resamples=4000)["mean"]
    half = 1.96 * own.std() / np.sqrt(200)
    assert found == pytest.approx((own.mean(), own.mean() - half, own.mean() + half), abs=0.1 * half)
    assert found.low > 0
    alone = bootstrap(NAMES, mean_of(hard + own))["mean"]
    assert alone.high - alone.low > 5 * (found.high - found.low)


def test_the_same_seed_gives_the_same_interval_and_another_one_another():
    summary = mean_of(RNG.normal(size=200))
    assert bootstrap(NAMES, summary, seed=3) == bootstrap(NAMES, summary, seed=3)
    assert bootstrap(NAMES, summary, seed=3) != bootstrap(NAMES, summary, seed=4)


def test_a_number_that_some_resamples_lack_comes_from_the_others():
    def summary(names):
        return {"first": 1.0} if "0" in names else {}

    assert bootstrap(NAMES[:3], summary)["first"] == (1, 1)
    assert paired_difference(NAMES[:3], summary, lambda names: {"first": 0.25, "second": 1.0})["first"] == (0.75,) * 3


def test_one_scene_has_no_interval():
    assert bootstrap(NAMES[:1], mean_of(np.zeros(200))) == {}
    assert paired_difference([], mean_of(np.zeros(200)), mean_of(np.zeros(200))) == {}


def test_the_rows_of_a_protocol_have_intervals():
    errors = RNG.gamma(2, 4, (200, 6))
    scenes = {
        name: {"rotation_deg": e.tolist(), "direction_deg": e.tolist()} for name, e in zip(NAMES, errors, strict=True)
    }
    protocol = PROTOCOLS["co3d-vggt"]
    found = bootstrap(NAMES, lambda names: protocol.summarise(scenes, names=names), resamples=200)
    row = protocol.summarise(scenes)
    assert list(found) == list(row) == ["auc30", "auc15", "auc5", "auc3"]
    for key, value in row.items():
        assert found[key].low < value < found[key].high
        assert found[key].high - found[key].low < 0.1
