"""Broken clips are broken in the way they say, and only there."""

import numpy as np
import pytest
import torch

from quantvggt.core.errors import InputError
from quantvggt.scenes.calibration import CALIBRATION_SEED
from quantvggt.scenes.corruption import KINDS, POOL_SEED, corrupt, synthetic_pool
from quantvggt.scenes.labels import label_of
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clip, make_clips


def detail(images: torch.Tensor) -> float:
    """Mean squared difference of neighbouring pixels: how sharp the edges are."""
    return float((images[..., 1:] - images[..., :-1]).square().mean())


def test_unrelated() -> None:
    clip, others = make_clip(1, frames=3, size=28), make_clips([2, 3, 4], frames=2, size=28)
    broken = corrupt(clip, "unrelated", others=others)
    assert torch.equal(broken.images, torch.stack([clip.images[0], others[0].images[0], others[1].images[0]]))
    assert broken.names == [clip.names[0], others[0].names[0], others[1].names[0]]
    assert broken.truth is None
    assert "unrelated" not in broken.record()  # a source may name the user's files, a record never does


def test_blurred() -> None:
    clip = make_clip(1, frames=2, size=112)
    broken = corrupt(clip, "blurred")
    assert detail(broken.images) < detail(clip.images) / 50
    torch.testing.assert_close(broken.images.mean((0, 2, 3)), clip.images.mean((0, 2, 3)), atol=0.02, rtol=0)
    assert broken.truth is clip.truth


def test_black() -> None:
    clip = make_clip(1, frames=5, size=28)
    broken = corrupt(clip, "black", seed=7)
    black = [bool((frame == 0).all()) for frame in broken.images]
    assert sum(black) == 2
    sound = [index for index, flag in enumerate(black) if not flag]
    assert torch.equal(broken.images[sound], clip.images[sound])
    assert broken.truth is None
    assert not torch.equal(broken.images, corrupt(clip, "black", seed=8).images)
    assert clip.images.amax((1, 2, 3)).min() > 0  # the original is untouched


def test_repeated() -> None:
    clip = make_clip(1, frames=4, size=28)
    broken = corrupt(clip, "repeated", seed=2)
    assert clip.truth is not None
    assert broken.truth is not None
    chosen = clip.names.index(broken.names[0])
    for frame in range(4):
        assert torch.equal(broken.images[frame], clip.images[chosen])
        assert torch.equal(broken.truth.extrinsics[frame], clip.truth.extrinsics[chosen])
        assert torch.equal(broken.truth.depth[frame], clip.truth.depth[chosen])


def test_a_pool_holds_the_share_asked_for_and_says_so() -> None:
    pool = synthetic_pool(20, frames=2, broken=0.4, seed=1, size=28)
    kinds = [clip.source.get("broken") for clip in pool]
    assert {kind: kinds.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 2)
    for index, clip in enumerate(pool):
        sound = make_clip(POOL_SEED + 1_000_000 + index, 2, 28)
        assert clip.source["seed"] == sound.source["seed"]
        assert torch.equal(clip.images, sound.images) == (kinds[index] is None)
        assert clip.source["label"] == label_of(sound)
    again = synthetic_pool(20, frames=2, broken=0.4, seed=1, size=28)
    assert all(torch.equal(a.images, b.images) for a, b in zip(pool, again, strict=True))
    assert len({clip.source["label"] for clip in pool}) > 3


def test_pools_share_no_scene_with_anything_else() -> None:
    seeds = [
        {source["seed"] for clip in synthetic_pool(8, 2, 0.5, seed, 28) for source in scenes(clip.source)}
        for seed in (0, 1)
    ]
    assert not seeds[0] & seeds[1]
    assert min(seeds[0] | seeds[1]) >= POOL_SEED > CALIBRATION_SEED + 1_000_000 > HELD_OUT_SEED


def scenes(source: dict) -> list[dict]:
    return [source, *source.get("unrelated", ())]


def test_a_label_is_the_number_of_solids() -> None:
    counts = {label_of(make_clip(seed, 1, 14)) for seed in range(40)}
    assert counts == {f"{number} solids" for number in range(4, 11)}


def test_mistakes() -> None:
    clip = make_clip(1, frames=3, size=28)
    with pytest.raises(InputError, match="unknown way to break a clip 'torn'"):
        corrupt(clip, "torn")
    with pytest.raises(InputError, match="3 unrelated frames need 2 other clips"):
        corrupt(clip, "unrelated", others=[clip])
    with pytest.raises(InputError, match="frames are as large"):
        corrupt(clip, "unrelated", others=make_clips([2, 3], frames=1, size=42))
    with pytest.raises(InputError, match="broken already"):
        corrupt(corrupt(clip, "black"), "black")
    with pytest.raises(InputError, match=r"share in \[0, 1\]"):
        synthetic_pool(4, broken=1.5)
    with pytest.raises(InputError, match="seed -1"):
        synthetic_pool(4, seed=-1)


def test_nothing_is_broken_unless_asked() -> None:
    assert not [clip for clip in synthetic_pool(3, 1, broken=0, size=14) if "broken" in clip.source]
    assert np.all([clip.truth is not None for clip in synthetic_pool(3, 1, broken=0, size=14)])
