"""Which parts of a sequence may see one place, and whether they do."""

from dataclasses import replace

import numpy as np
import pytest

from quantvggt.checkpoint.load import load
from quantvggt.reconstruction.long.chunk import NO_FEATURES, Chunk
from quantvggt.reconstruction.long.loops import features_of, key_places, likely_loops, sees
from quantvggt.reconstruction.long.mixed import Mix, agreeing, clip_of, loop, overview
from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.synthetic import make_path
from truth_scene import truth_scene


def chunk_of(scene: Scene) -> Chunk:
    return Chunk.of(scene, range(len(scene.names)), [], [], NO_FEATURES)


@pytest.fixture(scope="module")
def circle() -> Chunk:
    """Once around in 16 frames, all of which look at the same ground; the last eight stand 40 units away."""
    chunk = chunk_of(truth_scene(make_path(11, 16, 1.0, 56)))
    away = np.full(3, 40, np.float32)
    chunk.points[8:][chunk.points_conf[8:] > 0] += away
    chunk.extrinsics[8:, :, 3] -= chunk.extrinsics[8:, :, :3] @ away
    return chunk


def test_neighbours_see_one_place_and_strangers_do_not(circle: Chunk) -> None:
    assert sees(circle, 0, 1)
    assert sees(circle, 9, 8)
    assert not sees(circle, 7, 8)


def test_a_place_of_like_shape_and_other_colours_is_another_place(circle: Chunk) -> None:
    images = circle.images.copy()
    images[1] = 255 - images[1]
    assert not sees(replace(circle, images=images), 0, 1)


def test_frames_without_points_see_nothing(circle: Chunk) -> None:
    assert not sees(replace(circle, points_conf=np.zeros_like(circle.points_conf)), 0, 1)


def test_only_parts_that_hang_together_agree(circle: Chunk) -> None:
    assert agreeing(Mix({0: [0, 1], 3: [6, 7]}), circle) == [0, 3]
    assert agreeing(Mix({0: [0], 4: [8]}), circle) == []
    assert agreeing(Mix({0: [0], 1: [1], 4: [8]}), circle) == [0, 1]


def test_a_mixed_clip_is_made_of_the_chunks_frames(circle: Chunk) -> None:
    chunks = {0: circle.only([0, 1, 2]), 1: circle.only([13, 14, 15])}
    mix = loop((0, [0, 1, 2], 0), (1, [13, 14, 15], 15), 4)
    assert mix.places == [0, 1, 14, 15]
    clip = clip_of(mix, chunks)
    assert clip.names == [circle.names[place] for place in mix.places]
    np.testing.assert_array_equal((clip.images * 255).round().permute(0, 2, 3, 1).numpy(), circle.images[mix.places])
    assert clip.shown is not None
    np.testing.assert_array_equal(clip.shown.numpy(), circle.points_conf[mix.places] > 0)


def test_an_overview_is_spread_over_everything() -> None:
    mix = overview({0: range(10), 1: range(10, 20), 2: range(20, 31)}, 4)
    assert mix.places == [0, 10, 20, 30]
    assert mix.frames == {0: [0], 1: [10], 2: [20, 30]}


def test_the_pair_that_looks_alike_is_found() -> None:
    """Features turn steadily, and the last chunk comes back to where the first was."""
    angles = np.radians(np.arange(0, 24) * 14.0)
    angles[20:] = angles[:4]
    features = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    chunks = [(range(4 * k, 4 * k + 4), features[4 * k : 4 * k + 4]) for k in range(6)]
    found = likely_loops(chunks)
    assert (found[0][0], found[0][2]) == (0, 5)
    assert all(second - first > 1 for first, _, second, _ in found)


def test_key_frames_are_spread() -> None:
    assert key_places(10) == [0, 3, 6, 9]
    assert key_places(2) == [0, 1]


def test_a_frames_features_do_not_depend_on_its_company() -> None:
    model, images = load("vggt-nano"), make_path(1, 3, 0.2).images
    together = features_of(model, images)
    np.testing.assert_array_equal(features_of(model, images[1:2])[0], together[1])
