"""From a pool to a calibration set: what is seen of a clip, what each strategy makes of it, and what is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import quantvggt as qv
from quantvggt.calibrate.sampling.features import PoolFeatures, pool_features
from quantvggt.calibrate.sampling.selection import select
from quantvggt.calibrate.sampling.strategies import STRATEGIES, choose
from quantvggt.core.errors import InputError
from quantvggt.models import VGGT
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.corruption import synthetic_pool
from tiny import tiny_clip, tiny_model


@pytest.fixture(scope="module")
def model() -> VGGT:
    return tiny_model()


@pytest.fixture(scope="module")
def pool() -> list[Clip]:
    return [tiny_clip(f"clip{index}") for index in range(12)]


@pytest.fixture(scope="module")
def features(model: VGGT, pool: list[Clip]) -> PoolFeatures:
    return pool_features(model, pool, progress=False)


@pytest.fixture(scope="module")
def broken_pool() -> tuple[PoolFeatures, list[str]]:
    """vggt-nano's view of a pool whose broken clips are black, and what is wrong with each."""
    clips = synthetic_pool(40, frames=4, broken=0.5, seed=5)
    clips = [clip for clip in clips if clip.source.get("broken", "black") == "black"]
    seen = pool_features(qv.load("vggt-nano"), clips, progress=False)
    return seen, [clip.source.get("broken", "") for clip in clips]


def made_up(count: int = 60, seed: int = 0) -> PoolFeatures:
    """Features with three clear kinds of motion; the first ten clips are noise, and all of one kind of motion."""
    rng = np.random.default_rng(seed)
    kind = np.concatenate([np.zeros(10, int), rng.integers(0, 3, count - 10)])
    means = rng.normal(0, 1, (count, 2))
    means[:10] += 30
    motion = np.eye(3)[kind] + rng.normal(0, 0.01, (count, 3))
    return PoolFeatures(
        means=means,
        variances=rng.gamma(2, 1, (count, 2)),
        flattened=motion,
        tokenwise=motion[::-1].copy(),
        pooled=rng.normal(0, 1, (count, 5)),
        labels=[f"label{index % 4}" for index in range(count)],
        layers=["frame_blocks.1", "global_blocks.1"],
    )


def test_moments_are_those_of_the_inputs_of_the_deep_norms(model: VGGT, pool: list[Clip]) -> None:
    seen = pool_features(model, pool[:2], deep=1.0, progress=False)
    assert seen.layers == ["frame_blocks.0", "global_blocks.0", "frame_blocks.1", "global_blocks.1"]
    with torch.no_grad():
        output = model.aggregator(pool[1].images[None], [0, 1])
    frame, whole = output[0][0].double().numpy()[..., :64], output[0][0].double().numpy()[..., 64:]
    second = output[1][0].double().numpy()
    # What enters global block 0 is what left frame block 0, and so on: the trunk's outputs tell the norms' inputs.
    for layer, tokens in ((1, frame), (2, whole), (3, second[..., :64])):
        np.testing.assert_allclose(seen.means[1, layer], tokens.mean(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(seen.variances[1, layer], np.square(tokens - tokens.mean()).mean(), rtol=1e-4)
    np.testing.assert_allclose(seen.pooled[1], second.mean((0, 1)), rtol=1e-3, atol=1e-5)
    flat = second.reshape(3, -1)
    cosines = [flat[0] @ other / np.linalg.norm(flat[0]) / np.linalg.norm(other) for other in flat[1:]]
    np.testing.assert_allclose(seen.flattened[1], cosines, rtol=1e-5)


def test_no_hook_stays_on_the_model(model: VGGT, pool: list[Clip]) -> None:
    with pytest.raises(InputError, match="clip 1 of the pool"):
        pool_features(model, [pool[0], tiny_clip("short", frames=2)], progress=False)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_features_come_back_from_their_file(features: PoolFeatures, tmp_path: Path) -> None:
    features.save(tmp_path / "pool.safetensors")
    back = PoolFeatures.load(tmp_path / "pool.safetensors")
    for field in dataclasses.fields(PoolFeatures):
        before, after = getattr(features, field.name), getattr(back, field.name)
        assert np.array_equal(before, after), field.name


def test_a_file_without_features_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such pool features"):
        PoolFeatures.load(tmp_path / "gone")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="holds no pool features"):
        PoolFeatures.load(tmp_path / "text")


def test_only_strategies_that_filter_leave_noise_out() -> None:
    features = made_up()
    for name, strategy in STRATEGIES.items():
        noisy = [int((choose(features, 24, name, seed).indices < 10).sum()) for seed in range(10)]
        assert (max(noisy) == 0) == strategy.filters, name


def test_clusters_are_drawn_from_evenly() -> None:
    features = made_up()
    motion = features.flattened.argmax(1)
    for seed in range(5):
        drawn = motion[choose(features, 24, "nfds", seed, {"clusters": 3}).indices]
        assert np.bincount(drawn).tolist() == [8, 8, 8]
    by_label = choose(features, 24, "label", 0)
    assert np.bincount([int(features.labels[index][-1]) for index in by_label.indices]).tolist() == [6, 6, 6, 6]


def test_the_variants_change_what_they_name() -> None:
    features = made_up()
    paper = choose(features, 10)
    assert paper.kept.sum() == 48
    assert (paper.clusters[~paper.kept] == -1).all()
    kept_reading = choose(features, 10, settings={"drop": 0.8})
    assert kept_reading.kept.sum() == 12
    iqr = choose(features, 10, settings={"rule": "iqr"})
    assert set(iqr.thresholds) == {"label0", "label1", "label2", "label3"}
    unused = choose(features, 60, settings={"rule": "iqr-unused"})
    assert unused.indices.tolist() == list(range(60))  # clips that fail the rule are drawn all the same
    assert unused.kept.tolist() == iqr.kept.tolist()
    tokenwise = choose(features, 10, settings={"correlation": "tokenwise"})
    assert tokenwise.clusters.tolist() != paper.clusters.tolist()


def test_a_choice_follows_from_its_seed() -> None:
    features = made_up()
    for name in STRATEGIES:
        first, again, other = (choose(features, 20, name, seed).indices.tolist() for seed in (1, 1, 2))
        assert first == again == sorted(set(first))
        assert first != other


def test_black_clips_are_filtered_out(broken_pool: tuple[PoolFeatures, list[str]]) -> None:
    features, broken = broken_pool
    share = broken.count("black") / len(broken)
    dropped = ~choose(features, 8, settings={"drop": share}).kept
    caught = sum(flag for flag, kind in zip(dropped, broken, strict=True) if kind) / broken.count("black")
    by_chance = dropped.mean()
    assert caught >= 0.75 > by_chance


def test_select_calibration_gives_a_sequence_that_quantize_takes(model: VGGT, pool: list[Clip]) -> None:
    chosen = qv.select_calibration(model, pool, size=4, seed=3, clusters=2, model_name="tiny", progress=False)
    assert len(chosen) == 4
    assert list(chosen.indices) == sorted(set(chosen.indices))
    assert [clip.names for clip in chosen] == [pool[index].names for index in chosen.indices]
    assert (chosen.strategy, chosen.seed, chosen.pool, chosen.model) == ("nfds", 3, 12, "tiny")
    assert chosen.settings.clusters == 2
    assert chosen.layers == ("frame_blocks.1", "global_blocks.1")
    features = pool_features(model, pool, progress=False)
    apart = select(pool, features, 4, seed=3, settings={"clusters": 2}, model="tiny")
    assert (apart.indices, apart.scores, apart.clusters) == (chosen.indices, chosen.scores, chosen.clusters)


def test_a_pool_of_synthetic_scenes_opens_its_clips_one_at_a_time(model: VGGT) -> None:
    chosen = qv.select_calibration(model, "synthetic", size=2, pool_size=6, frames=2, progress=False)
    assert len(chosen) == 2
    assert all(clip.images.shape == (2, 3, 70, 70) for clip in chosen)


def test_mistakes(model: VGGT, pool: list[Clip], features: PoolFeatures) -> None:
    with pytest.raises(InputError, match="unknown sampling strategy 'best'; choose one of: nfds, random"):
        qv.select_calibration(model, pool, size=2, strategy="best")
    with pytest.raises(InputError, match="size is 13, the pool has 12 clips"):
        qv.select_calibration(model, pool, size=13)
    with pytest.raises(InputError, match="11 clips were asked for, but 9 are left of a pool of 12"):
        choose(features, 11)
    with pytest.raises(InputError, match="size is 0"):
        choose(features, 0)
    with pytest.raises(InputError, match="unknown rule 'mad'"):
        choose(features, 2, settings={"rule": "mad"})
    with pytest.raises(InputError, match="unknown correlation"):
        choose(features, 2, settings={"correlation": "euclid"})
    with pytest.raises(InputError, match=r"sampling settings .* known are: clusters, rule, drop, correlation"):
        choose(features, 2, settings={"k": 3})
    with pytest.raises(InputError, match=r"drop is -0\.1"):
        choose(features, 2, settings={"drop": -0.1})
    with pytest.raises(InputError, match="clusters is 0"):
        choose(features, 2, settings={"clusters": 0})
    with pytest.raises(InputError, match="single frame"):
        pool_features(model, [tiny_clip("one", frames=1)], progress=False)
    overflowing = dataclasses.replace(pool[1], images=pool[1].images / 0)
    with pytest.raises(InputError, match=r"clip 1 of the pool .* aren't finite"):
        pool_features(model, [pool[0], overflowing], progress=False)
    with pytest.raises(InputError, match="features are of 12 clips, the pool has 3"):
        select(pool[:3], features, 2)
    with pytest.raises(InputError, match="deep share"):
        qv.select_calibration(model, pool, size=2, deep=2.0)
    with pytest.raises(InputError, match="pool of candidates is empty"):
        pool_features(model, [], progress=False)
