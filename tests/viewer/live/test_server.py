"""The live viewer's servers answer on this machine; what is set in the panel is what the panes draw."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.scene import Scene
from quantvggt.viewer.live.look import Look
from quantvggt.viewer.live.server import LiveViewer
from truth_scene import small_scene

pytest.importorskip("viser", reason="no viser: pip install 'quantvggt[view]'")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene()


@pytest.fixture
def pair(scene: Scene) -> Iterator[LiveViewer]:
    other = scene.transformed(2.0, None, np.array([1.0, 0.0, 0.0]))
    viewer = LiveViewer([scene, other], ["float <32>", "w4a4"], port=18080)
    yield viewer
    viewer.stop()


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=5) as answer:
        return str(answer.read().decode())


def test_one_scene_is_served_on_loopback_and_no_longer_after_it_stops(scene: Scene) -> None:
    viewer = LiveViewer([scene], ["scene"], port=18060)
    assert viewer.address.startswith("http://127.0.0.1:180")
    assert "<html" in get(viewer.address)
    assert viewer.points == [int((scene.points_conf > 0).sum())]
    assert viewer.panes[0].server.request_share_url() is None, "nothing leaves this machine"
    viewer.stop()
    with pytest.raises(OSError, match="refused"):
        get(viewer.address)


def test_two_scenes_share_a_page_and_lie_on_one_another(pair: LiveViewer, scene: Scene) -> None:
    page = get(pair.address)
    assert "float &lt;32&gt;" in page
    for pane in pair.panes:
        assert f'data-port="{pane.server.get_port()}"' in page
        assert "<html" in get(f"http://127.0.0.1:{pane.server.get_port()}")
    assert pair.difference is not None
    assert pair.difference.median < 1e-5
    ours, theirs = (pane.scene for pane in pair.panes)
    np.testing.assert_allclose(theirs.points[scene.points_conf > 0], ours.points[scene.points_conf > 0], atol=1e-4)
    np.testing.assert_allclose(theirs.extrinsics, ours.extrinsics, atol=1e-4)


def test_a_look_is_drawn_in_both_panes(pair: LiveViewer) -> None:
    pair.look(Look(80, 1, 2, size=2.0, cameras=True, heat=True))
    for pane in pair.panes:
        points = pane._points
        kept = pane.cloud.shown(80, 1, 2)
        np.testing.assert_array_equal(points.points, pane.cloud.points.xyz[kept])
        colours = pane.cloud.points.rgb if pane.heat is None else pane.heat
        np.testing.assert_array_equal(points.colors, colours[kept])
        assert points.point_size == pytest.approx(2 * pane._pixel)
        assert [camera.visible for camera in pane._cameras] == [False, True, True]
    assert [pane.heat is None for pane in pair.panes] == [True, False]
    pair.look(Look(80, 1, 2, cameras=False))
    for pane in pair.panes:
        np.testing.assert_array_equal(pane._points.colors, pane.cloud.points.rgb[pane.cloud.shown(80, 1, 2)])
        assert not any(camera.visible for camera in pane._cameras)


def test_scenes_of_other_frames_are_shown_without_a_difference(scene: Scene) -> None:
    viewer = LiveViewer([scene, small_scene(seed=4, frames=2)], ["a", "b"], port=18100)
    try:
        assert viewer.difference is None
        assert "different frames" in viewer.incomparable
        viewer.look(Look(0, 0, 2, heat=True))
        assert [len(pane.shown) for pane in viewer.panes] == viewer.points
    finally:
        viewer.stop()


def test_what_cannot_be_served(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="give one, or two"):
        LiveViewer([scene] * 3, ["a", "b", "c"])
    with pytest.raises(InputError, match="cannot listen on"):
        LiveViewer([scene], ["a"], host="192.0.2.1")
    monkeypatch.setattr("quantvggt.viewer.live.server.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'quantvggt\[view\]'"):
        LiveViewer([scene], ["a"])
