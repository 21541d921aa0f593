"""Chunks joined to one scene. A model that is exactly right, each time in a world and a unit of its own, has to give
the truth again; a real one shows that an interrupted run ends with the same bits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import quantvggt as qv
from quantvggt.checkpoint.load import load
from quantvggt.core.errors import InputError, QuantVGGTError
from quantvggt.core.similarity import Similarity, umeyama
from quantvggt.models import Model
from quantvggt.reconstruction.geometry import camera_centres
from quantvggt.reconstruction.long import run
from quantvggt.reconstruction.long.assemble import moved, owners
from quantvggt.reconstruction.long.chunk import NO_FEATURES, Chunk
from quantvggt.reconstruction.long.run import Chunking, reconstruct_long
from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.sequence import ClipFrames
from quantvggt.scenes.synthetic import make_path
from truth_scene import truth_scene

Predict = Callable[..., Scene]


@pytest.fixture(scope="module")
def path() -> Clip:
    return make_path(11, 24, 0.5, 56)


def motion_of(seed: int) -> Similarity:
    rng = np.random.default_rng(seed)
    return Similarity(rng.uniform(0.5, 2), Rotation.random(rng=rng).as_matrix(), rng.normal(size=3))


def exact(truth: Scene, seen: list[list[str]] | None = None) -> Predict:
    """A `predict.reconstruct` that knows the truth, but tells it in a world of its own each time."""

    def predict(model: object, clip: Clip, points: str, *rest: object, **more: object) -> Scene:
        rows = [truth.names.index(name) for name in clip.names]
        if seen is not None:
            seen.append(list(clip.names))
        provenance = {"points": points, "source": {}}
        chunk = Chunk.of(truth, range(len(truth.names)), [], [], NO_FEATURES)
        chunk.provenance.update(provenance)
        arrays = moved(chunk, rows, motion_of(rows[0]), points == "depth")
        return Scene(names=list(clip.names), provenance=provenance, **arrays)

    return predict


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model that nobody asks."""
    monkeypatch.setattr(run, "features_of", lambda model, images: np.eye(len(images), 8, dtype=np.float32))
    monkeypatch.setattr(run, "remember_rate", lambda *args: None)
    monkeypatch.setattr(run.predict, "check_request", lambda model, points: None)
    return SimpleNamespace(products=None, attention="exact", attention_bits=16, state_dict=dict)  # type: ignore[return-value]


@pytest.mark.parametrize("points", ["depth", "pointmap"])
@pytest.mark.parametrize("loops", [True, False])
def test_exact_chunks_make_the_exact_scene(
    path: Clip, stub: Model, points: str, loops: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = truth_scene(path)
    monkeypatch.setattr(run.predict, "reconstruct", exact(truth))
    scene = reconstruct_long(stub, ClipFrames(path), tmp_path, Chunking(8, 3, loops), points, progress=False)
    assert scene.names == truth.names
    assert isinstance(scene.depth, np.memmap)
    back = umeyama(camera_centres(scene.extrinsics), camera_centres(truth.extrinsics))
    np.testing.assert_allclose(
        back.apply(camera_centres(scene.extrinsics)), camera_centres(truth.extrinsics), atol=2e-3
    )
    np.testing.assert_allclose(back.scale * scene.depth, truth.depth, rtol=1e-3, atol=1e-5)
    known = truth.points_conf > 0
    np.testing.assert_allclose(back.apply(scene.points[known].astype(float)), truth.points[known], atol=5e-3)
    assert (scene.points[~known] == 0).all()
    np.testing.assert_array_equal(scene.images, truth.images)
    assert scene.provenance["chunking"]["chunks"] == 5
    assert (scene.provenance["chunking"]["loops"] > 0) == loops


def test_frames_belong_to_the_chunk_that_has_most_around_them() -> None:
    owned = owners([[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9]])
    assert owned == {0: [0, 1, 2, 3, 4], 1: [5, 6, 7, 8, 9]}


def test_frames_belong_rather_to_a_chunk_where_their_lens_is_their_own() -> None:
    chunks = [[0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8]]
    assert owners(chunks, [{0, 3}, {4, 5}]) == {0: [0, 1, 2, 4, 5], 1: [3, 6, 7, 8]}
    assert owners(chunks, [{3}, {3, 4}]) == {0: [0, 1, 2, 3, 4], 1: [5, 6, 7, 8]}, "the chunk with fewer lost"


def test_lost_lenses_cost_no_frame_and_hold_nothing_together(
    path: Clip, stub: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames whose lens is lost stand somewhere else, so whatever is joined by them can't be exact."""
    truth, spares = truth_scene(path), list[object]()
    right, lost = exact(truth), {0: {1, 6}, 1: {6, 11}, 4: set(range(16, 24)), 5: {3, 20}}

    def losing(model: object, clip: Clip, *rest: object, **more: object) -> Scene:
        scene, places = right(model, clip, *rest), [truth.names.index(name) for name in clip.names]
        spares.append(rest[-1])
        rows = [row for row, place in enumerate(places) if place in lost.get(len(spares) - 1, ())]
        scene.extrinsics[rows] += 5
        scene.points[rows] *= -3
        return replace(scene, provenance={**scene.provenance, "borrowed_lens": [clip.names[row] for row in rows]})

    monkeypatch.setattr(run.predict, "reconstruct", losing)
    with pytest.warns(UserWarning, match=r"no field of view") as told:
        scene = reconstruct_long(stub, ClipFrames(path), tmp_path, Chunking(8, 3), progress=False)
    assert len(told) == 1
    names = [truth.names[place] for place in (1, 6, 23)]
    assert scene.provenance["borrowed_lens"] == names, "11 and 16 to 22 have their own in another chunk"
    assert scene.names == truth.names
    kept = [place for place, name in enumerate(truth.names) if name not in names]
    centres, wanted = camera_centres(scene.extrinsics)[kept], camera_centres(truth.extrinsics)[kept]
    np.testing.assert_allclose(umeyama(centres, wanted).apply(centres), wanted, atol=2e-3)
    assert spares[0] is None
    for spare in spares[1:5]:
        np.testing.assert_allclose(spare, truth.intrinsics[0], rtol=1e-6)
    assert spares[5:] == [None] * (len(spares) - 5), "in mixed chunks frames without a lens take no part"


def test_killed_three_times_it_ends_with_the_same_scene(
    path: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, frames, chunking = load("vggt-nano"), ClipFrames(make_path(11, 12, 0.3)), Chunking(6, 2)
    expected = reconstruct_long(model, frames, tmp_path / "whole", chunking, progress=False)
    original, left = run.predict.reconstruct, [0]

    def dying(*args: object, **more: object) -> Scene:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return original(*args, **more)

    monkeypatch.setattr(run.predict, "reconstruct", dying)
    calls = 0
    for survives in (0, 1, 2):
        left[0] = survives
        with pytest.raises(KeyboardInterrupt):
            reconstruct_long(model, frames, tmp_path / "killed", chunking, progress=False)
        calls += survives
    left[0] = 100
    found = reconstruct_long(model, frames, tmp_path / "killed", chunking, progress=False)
    runs = len(list((tmp_path / "whole").glob("*.safetensors")))
    assert 100 - left[0] == runs - calls, "what was finished is not run again"
    for name in ("images", "extrinsics", "intrinsics", "depth", "depth_conf", "points", "points_conf"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.provenance == expected.provenance


def test_other_frames_are_another_task(tmp_path: Path) -> None:
    model, chunking = load("vggt-nano"), Chunking(3, 1, loops=False)
    one, other = (make_path(seed, 4, 0.1) for seed in (1, 2))
    reconstruct_long(model, ClipFrames(one), tmp_path, chunking, progress=False)
    scene = reconstruct_long(model, ClipFrames(other), tmp_path, chunking, progress=False)
    np.testing.assert_array_equal(scene.images[0], (other.images[0].permute(1, 2, 0).numpy() * 255).round())


def test_chunks_that_do_not_fit_are_refused() -> None:
    for size, overlap in ((2, 1), (8, 8), (8, 0)):
        with pytest.raises(InputError, match="give"):
            Chunking(size, overlap)


def test_chunks_without_points_in_common_cannot_be_joined(
    path: Clip, stub: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = truth_scene(path)
    truth.points_conf[...] = 0
    truth.points_conf[:3] = 1
    monkeypatch.setattr(run.predict, "reconstruct", exact(truth))
    with pytest.raises(QuantVGGTError, match="--overlap"):
        reconstruct_long(stub, ClipFrames(path), tmp_path, Chunking(8, 3, False), progress=False)


def test_the_public_function_takes_chunks_only_where_it_must(tmp_path: Path) -> None:
    clip = make_path(1, 5, 0.1)
    model = load("vggt-nano")
    whole = qv.reconstruct_long(model, clip, tmp_path / "work", progress=False)
    assert "chunking" not in whole.provenance
    assert not (tmp_path / "work").exists()
    chunked = qv.reconstruct_long(model, clip, tmp_path / "work", chunk=3, loops=False, progress=False)
    assert chunked.provenance["chunking"]["chunks"] == 3
    assert chunked.names == whole.names
    with pytest.raises(InputError, match="allow more memory"):
        qv.reconstruct_long(model, clip, tmp_path / "work", max_memory=1000, progress=False)


def test_refining_finds_the_one_lens_and_straightens_the_path(
    stub: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pycolmap")
    path = make_path(11, 24, 0.5)
    truth = truth_scene(path)
    right = exact(truth)

    def astray(model: object, clip: Clip, *args: object, **more: object) -> Scene:
        """Each chunk takes the lens for another one, and turns a little with every frame."""
        scene, factor = right(model, clip, *args), 1.03 + 0.03 * np.sin(truth.names.index(clip.names[0]))
        lenses, cameras = scene.intrinsics.copy(), scene.extrinsics.copy()
        lenses[:, (0, 1), (0, 1)] *= factor
        for row in range(len(cameras)):
            cameras[row, :, :3] = Rotation.from_rotvec([0, 0.012 * row, 0]).as_matrix() @ cameras[row, :, :3]
        return replace(scene, intrinsics=lenses, extrinsics=cameras)

    monkeypatch.setattr(run.predict, "reconstruct", astray)

    def off(scene: Scene) -> float:
        centres, wanted = camera_centres(scene.extrinsics), camera_centres(truth.extrinsics)
        return float(np.linalg.norm(umeyama(centres, wanted).apply(centres) - wanted, axis=1).mean())

    frames, chunking = ClipFrames(path), Chunking(8, 3)
    before = reconstruct_long(stub, frames, tmp_path, chunking, progress=False)
    assert "refined" not in before.provenance
    error = off(before)
    after = reconstruct_long(stub, frames, tmp_path, chunking, progress=False, refine=True, one_lens=True)
    record = after.provenance["refined"]
    assert record["applied"]
    assert record["error_after"] < 0.8 * record["error_before"]
    assert off(after) < 0.5 * error
    focal = truth.intrinsics[0, 0, 0]
    assert abs(after.intrinsics[0, 0, 0] / focal - 1) < 0.02
    assert (after.intrinsics == after.intrinsics[:1]).all()
    known = np.asarray(after.depth) > 0
    scale = umeyama(camera_centres(after.extrinsics), camera_centres(truth.extrinsics)).scale
    np.testing.assert_allclose(np.median(scale * after.depth[known] / truth.depth[known]), 1, rtol=0.05)
