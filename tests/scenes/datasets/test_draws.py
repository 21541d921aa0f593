"""The frames that published evaluations draw, from the recorded lists of their own code."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.datasets import Dataset, Drawn, Every, First, Picture, RandomFrames, open_dataset
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clip

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/datasets/co3d_frame_selection.json").read_text())


class Listed(Dataset):
    """Scenes with so many frames, without files; a name is "category/sequence"."""

    name = "listed"

    def __init__(self, lengths: dict[str, int]) -> None:
        super().__init__(None)
        self.lengths = lengths

    def scenes(self, split: str = "test") -> Sequence[str]:
        return list(self.lengths)

    def frames(self, scene: str) -> Sequence[str]:
        return [str(frame) for frame in range(self.lengths[scene])]

    def clip(self, scene: str, frames: Sequence[int], picture: Picture) -> Clip:
        raise NotImplementedError

    def category(self, scene: str) -> str:
        return scene.split("/")[0]


def annotated() -> Listed:
    """The recorded annotation; a sequence with a broken translation has no frames that can be used."""
    return Listed(
        {
            f"{category}/{told['sequence']}": 0 if told["bad_translation"] else told["num_images"]
            for category, sequences in GOLDEN["annotation"].items()
            for told in sequences
        }
    )


@pytest.mark.parametrize("count", [10, 20])
def test_sorted_draws_of_vggt_and_quantvggt(count: int) -> None:
    wanted = [
        Drawn(f"{told['category']}/{told['sequence']}", tuple(told["ids"]))
        for told in GOLDEN[f"sorted_order_seed0_{count}frames"]
        if not told["skipped"]
    ]
    assert RandomFrames(count, seed=0, min_frames=50).of(annotated()) == wanted


def test_draws_of_pi3_take_scenes_as_listed() -> None:
    drawn = RandomFrames(10, seed=42, min_frames=50, order="listed").of(annotated())
    assert [(scene.split("/")[1], list(frames)) for scene, frames in drawn] == [
        (told["sequence"], told["ids"]) for told in GOLDEN["file_order_seed42_10frames"]
    ]


def test_the_published_list_of_pi3_goes_on_without_reseeding() -> None:
    told = GOLDEN["seed42_chain_check"]
    drawn = RandomFrames(10, seed=42, order="listed").of(
        Listed({f"apple/{index}": length for index, length in enumerate(told["lengths"])})
    )
    frames = [list(frames) for _, frames in drawn]
    assert (frames[0], frames[7], frames[8]) == (told["first_ids"], told["eighth_ids"], told["ninth_ids"])


def test_quick_modes_choose_the_published_sequences() -> None:
    told = GOLDEN["quick_subset"]
    dataset = Listed({f"{category}/{name}": 60 for category in ("apple", "bottle") for name in reversed(told["names"])})
    sampled = [scene for scene, _ in RandomFrames(10, quick="sample").of(dataset)]
    assert sampled == [
        *(f"apple/{name}" for name in told["python_random_seed0_first_category"]),
        *(f"bottle/{name}" for name in told["python_random_seed0_second_category_same_names"]),
    ]
    first = [scene for scene, _ in RandomFrames(10, quick="first").of(dataset)]
    assert first == [f"{category}/{name}" for category in ("apple", "bottle") for name in told["first_20_sorted"]]


def test_fewer_scenes_are_spread_and_keep_their_frames() -> None:
    dataset = Listed({f"apple/{index:02d}": 60 for index in range(12)})
    draw = RandomFrames(3)
    everything = draw.of(dataset)
    assert draw.of(dataset, 4) == everything[::3]
    assert draw.of(dataset, 12) == everything
    assert draw.of(dataset, 4, seed=1) != everything[::3]


@pytest.mark.parametrize(
    ("draw", "available", "frames"),
    [
        (Every(5), 12, (0, 5, 10)),
        (Every(3, limit=2), 12, (0, 3)),
        (Every(1, limit=4, start=3), 12, (3, 4, 5, 6)),
        (Every(500, halving=True), 5, (0, 2, 4)),  # CUT3R: three frames of a short scene
        (Every(500), 5, (0,)),
        (Every(5, backwards=True), 12, (10, 5, 0)),
        (First(3), 12, (0, 1, 2)),
    ],
)
def test_fixed_draws(draw: Every | First, available: int, frames: tuple[int, ...]) -> None:
    assert draw.of(Listed({"room": available})) == [Drawn("room", frames)]


def test_scenes_with_too_few_frames_are_left_out_and_too_few_scenes_refused() -> None:
    dataset = Listed({"a": 2, "b": 5, "c": 9})
    assert [scene for scene, _ in First(4).of(dataset)] == ["b", "c"]
    assert [scene for scene, _ in First(4).of(dataset, 1, seed=2)] == ["c"]
    with pytest.raises(InputError, match="has 2 scenes with enough frames, 3 were asked for"):
        First(4).of(dataset, 3)
    with pytest.raises(InputError, match="has 0 scenes"):
        RandomFrames(10).of(dataset)
    with pytest.raises(InputError, match="1 or more"):
        First(4).of(dataset, 0)


@pytest.mark.parametrize(
    "make", [lambda: First(0), lambda: Every(0), lambda: Every(1, limit=0), lambda: RandomFrames(0)]
)
def test_draws_of_nothing_are_refused(make: object) -> None:
    with pytest.raises(InputError, match="must be positive"):
        make()  # type: ignore[operator]


def test_synthetic_scenes_are_those_of_their_seeds() -> None:
    dataset = open_dataset("synthetic")
    drawn = First(3).of(dataset, 2, seed=5)
    assert [scene for scene, _ in drawn] == [str(HELD_OUT_SEED + 5), str(HELD_OUT_SEED + 6)]
    clip, wanted = dataset.clip(*drawn[0], Picture(56)), make_clip(HELD_OUT_SEED + 5, 3, 56)
    assert clip.images.equal(wanted.images)
    assert clip.names == wanted.names == list(dataset.frames(drawn[0].scene)[:3])
    assert np.array_equal(clip.truth.depth, wanted.truth.depth)
    assert len(First(2).of(dataset)) == 100
    with pytest.raises(InputError, match="frames 0, 1"):
        dataset.clip("9000000", [1, 2], Picture(56))
