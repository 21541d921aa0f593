"""The sampling formulas against independent numpy in float64, and each rule and draw against known answers."""

import numpy as np
import pytest
import torch

from quantvggt.calibrate.sampling.cluster import draw_evenly, groups_of, kmeans
from quantvggt.calibrate.sampling.features import deep_blocks, first_frame_correlations
from quantvggt.calibrate.sampling.noise import keep_by_iqr, keep_by_percentile, noise_scores
from quantvggt.core.errors import InputError


def test_noise_scores_follow_the_paper() -> None:
    rng = np.random.default_rng(0)
    means, variances = rng.normal(3, 2, (30, 4)), rng.gamma(2, 5, (30, 4))
    expected = []
    for clip in range(30):
        total = 0.0
        for table in (means, variances):
            for layer in range(4):
                column = table[:, layer]
                mu = sum(column) / 30
                sigma = (sum((value - mu) ** 2 for value in column) / 30) ** 0.5
                total += ((column[clip] - mu) / sigma) ** 2
        expected.append(total)
    np.testing.assert_allclose(noise_scores(means, variances), expected, rtol=1e-12)


def test_a_layer_on_which_all_agree_adds_nothing() -> None:
    rng = np.random.default_rng(1)
    means, variances = rng.normal(size=(20, 2)), rng.gamma(2, size=(20, 2))
    constant = np.full((20, 1), 0.1)
    padded = noise_scores(np.hstack([means, constant]), np.hstack([variances, constant]))
    np.testing.assert_allclose(padded, noise_scores(means, variances), rtol=1e-12)
    assert noise_scores(means[:1], variances[:1]).tolist() == [0.0]


def test_both_readings_of_p() -> None:
    scores = np.random.default_rng(2).permutation(100).astype(float)
    kept, threshold = keep_by_percentile(scores, drop=0.2)
    assert sorted(scores[kept]) == list(range(80))
    assert 79 <= threshold < 80
    assert sorted(scores[keep_by_percentile(scores, drop=0.8)[0]]) == list(range(20))
    assert keep_by_percentile(scores, drop=0)[0].all()


def test_the_iqr_rule_judges_each_label_by_itself() -> None:
    # Label a: quartiles 1 and 3, fence 6. Label b: ten times as much. 9 is far out in a, ordinary in b.
    scores = np.array([0, 1, 2, 3, 9, 0, 10, 20, 30, 9.0])
    kept, fences = keep_by_iqr(scores, list("aaaaabbbbb"))
    assert fences == {"a": 6.0, "b": 20 + 1.5 * 11}
    assert kept.tolist() == [True] * 4 + [False] + [True] * 5


def test_correlations_flattened() -> None:
    output = torch.randn(4, 11, 6, generator=torch.Generator().manual_seed(0))
    flat = output.double().numpy().reshape(4, -1)
    expected = [flat[0] @ other / np.linalg.norm(flat[0]) / np.linalg.norm(other) for other in flat[1:]]
    np.testing.assert_allclose(first_frame_correlations(output, "flattened", special=5), expected, rtol=1e-12)


def test_correlations_tokenwise() -> None:
    output = torch.randn(3, 5 + 7, 6, generator=torch.Generator().manual_seed(1))
    patches = output.double().numpy()[:, 5:11]  # of 7 patch tokens the odd last one is dropped
    pooled = (patches[:, 0::2] + patches[:, 1::2]) / 2
    pooled = (pooled[..., 0::2] + pooled[..., 1::2]) / 2
    norms = np.linalg.norm(pooled, axis=-1)
    cosines = (pooled[:1] * pooled[1:]).sum(-1) / (norms[:1] * norms[1:])
    np.testing.assert_allclose(first_frame_correlations(output, "tokenwise", special=5), cosines.mean(-1), rtol=1e-5)


def test_deep_is_a_share_of_the_depth() -> None:
    assert list(deep_blocks(24)) == [20, 21, 22, 23]
    assert list(deep_blocks(6)) == [5]
    assert list(deep_blocks(2)) == [1]
    assert list(deep_blocks(6, share=0.5)) == [3, 4, 5]
    with pytest.raises(InputError, match="deep share"):
        deep_blocks(6, share=0)


def test_kmeans_finds_planted_groups_and_always_the_same() -> None:
    rng = np.random.default_rng(3)
    truth = rng.permutation(np.repeat(np.arange(4), 10))
    vectors = 10 * np.eye(4)[truth] + rng.normal(0, 0.1, (40, 4))
    found = kmeans(vectors, 4)
    assert len({(a, b) for a, b in zip(truth.tolist(), found.tolist(), strict=True)}) == 4
    assert kmeans(vectors, 4).tolist() == found.tolist()


def test_kmeans_with_fewer_vectors_than_clusters() -> None:
    assert sorted(kmeans(np.array([[0.0], [1.0], [1.0]]), 8).tolist()) in ([0, 1, 1], [0, 0, 1])


def test_an_even_draw_is_even_and_fills_up() -> None:
    groups = groups_of(["few"] * 2 + ["many"] * 20 + ["more"] * 20)
    for seed in range(20):
        drawn = draw_evenly(groups, 15, np.random.default_rng(seed))
        counts = np.bincount(groups[drawn])
        assert len(set(drawn.tolist())) == 15
        assert counts[0] == 2  # all there are; its share would be 5
        assert counts[1] >= 5
        assert counts[2] >= 5
    assert draw_evenly(groups, 42, np.random.default_rng(0)).tolist() == list(range(42))


def test_an_even_draw_spreads_its_remainder_over_different_groups() -> None:
    groups = np.repeat(np.arange(4), 10)
    extra = set()
    for seed in range(30):
        counts = np.bincount(groups[draw_evenly(groups, 6, np.random.default_rng(seed))], minlength=4)
        assert sorted(counts) == [1, 1, 2, 2]
        extra |= set(np.flatnonzero(counts == 2).tolist())
    assert extra == {0, 1, 2, 3}


def test_a_draw_inside_a_group_is_uniform() -> None:
    groups = np.repeat([0, 1], [5, 50])
    drawn = np.concatenate([draw_evenly(groups, 2, np.random.default_rng(seed)) for seed in range(2000)])
    counts = np.bincount(drawn, minlength=55)
    # 2000 draws of one in five: 400 each, standard deviation 18
    assert np.abs(counts[:5] - 400).max() < 90
    assert counts[5:].sum() == 2000


def test_mistakes() -> None:
    with pytest.raises(InputError, match="drop is 1"):
        keep_by_percentile(np.zeros(3), 1.0)
    with pytest.raises(InputError, match="clusters is 0"):
        kmeans(np.zeros((3, 1)), 0)
    with pytest.raises(InputError, match="4 clips were asked for, but there are 3"):
        draw_evenly(np.zeros(3, dtype=np.int64), 4, np.random.default_rng(0))
