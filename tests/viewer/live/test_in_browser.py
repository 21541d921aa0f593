"""The live viewer in a real browser: points are drawn, a slider hides some, cameras are linked, lengths measured."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from browser import chromium, pixels
from quantvggt.reconstruction.scene import Scene
from quantvggt.viewer.live.server import LiveViewer
from truth_scene import small_scene

pytest.importorskip("viser", reason="no viser: pip install 'quantvggt[view]'")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


def until(true: Callable[[], bool], page: Any, seconds: float = 20) -> None:
    """Wait, letting the browser work, for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        page.wait_for_timeout(50)


def colours(page: Any) -> int:
    """Distinct colours of the picture, of those that a page without points hardly has: saturated ones."""
    shown = pixels(page).reshape(-1, 3).astype(int)
    vivid = shown[np.ptp(shown, axis=1) > 40]
    return len(np.unique(vivid // 8, axis=0)) if len(vivid) > 500 else 0


def drawn(page: Any) -> int:
    """Pixels that aren't background, where neither the panel nor viser's word about drawing without a GPU is."""
    shown = pixels(page)
    return int((shown[200:, : shown.shape[1] * 2 // 3] < 250).any(-1).sum())


def settled(page: Any) -> int:
    """The same, when nothing fades in any more."""
    last, now = -1, drawn(page)
    while now != last:
        page.wait_for_timeout(300)
        last, now = now, drawn(page)
    return now


def test_points_are_drawn_filtered_and_measured(browser: Any, tmp_path: Path) -> None:
    scene = small_scene(frames=3, size=(98, 126))
    viewer = LiveViewer([scene], ["scene"], port=18120)
    page = browser.new_page(viewport={"width": 900, "height": 600})
    try:
        page.goto(viewer.address)
        until(lambda: colours(page) > 100, page)
        pane = viewer.panes[0]
        seen, points = settled(page), len(pane.shown)

        confidence = page.get_by_role("slider").first
        confidence.press("End")
        for _ in range(10):
            confidence.press("ArrowLeft")
        until(lambda: len(pane.shown) < 0.25 * points, page)
        until(lambda: drawn(page) < 0.7 * seen, page)
        measure(page, viewer, tmp_path)
    finally:
        page.close()
        viewer.stop()


def measure(page: Any, viewer: LiveViewer, folder: Path) -> None:
    """Click on two points that are far apart on the screen; their distance is known."""
    pane = viewer.panes[0]
    page.get_by_label("Pick points").check()
    page.wait_for_timeout(500)
    (client,) = pane.server.get_clients().values()
    axes = Rotation.from_quat(np.roll(client.camera.wxyz, -1)).as_matrix()  # right, down, forward
    local = (pane.shown - client.camera.position) @ axes
    height, width = 600, 900
    focal = height / 2 / np.tan(client.camera.fov / 2)
    screen = local[:, :2] / local[:, 2:] * focal + [width / 2, height / 2]
    inside = np.flatnonzero((local[:, 2] > 0) & (screen > 60).all(1) & (screen < [560, 540]).all(1))
    # Of those that nothing else is near to on the screen, one at the left and one at the right.
    apart = [np.sort(np.linalg.norm(screen - screen[one], axis=1))[1] for one in inside]
    lone = inside[np.argsort(apart)[-30:]]
    chosen = lone[[np.argmin(screen[lone, 0]), np.argmax(screen[lone, 0])]]
    ruler = viewer.ruler.ruler
    for number, index in enumerate(chosen, 1):
        page.mouse.click(*screen[index])
        until(lambda number=number: len(ruler.points) == number, page)
    expected = np.linalg.norm(np.subtract(*pane.shown[chosen].astype(float)))
    assert ruler.length == pytest.approx(expected, rel=1e-5)
    page.get_by_label("Known length").fill("3")
    page.get_by_label("Known length").press("Enter")
    page.get_by_role("button", name="Set scale").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download scaled scene").click()
    scaled, scale = Scene.load(download.value.path().rename(folder / "scene.npz")), 3 / expected
    np.testing.assert_allclose(scaled.depth, pane.scene.depth * scale, rtol=1e-5)


def test_two_scenes_are_shown_coloured_by_difference_and_their_cameras_are_linked(browser: Any) -> None:
    scene = small_scene(frames=2)
    noise = np.random.default_rng(0).normal(0, 0.05, scene.points.shape).astype(np.float32)
    viewer = LiveViewer([scene, dataclasses.replace(scene, points=scene.points + noise)], ["a", "b"], port=18140)
    page = browser.new_page(viewport={"width": 1200, "height": 500})
    try:
        page.goto(viewer.address)
        left, right = (page.locator("iframe").nth(index) for index in range(2))
        until(lambda: colours(left) > 50 and colours(right) > 50, page)
        clients = [next(iter(pane.server.get_clients().values())) for pane in viewer.panes]
        before = clients[1].camera.position.copy()
        page.mouse.move(520, 350)
        page.mouse.down()
        page.mouse.move(620, 330, steps=10)
        page.mouse.up()
        far = np.linalg.norm(before - clients[1].camera.look_at)
        until(lambda: np.linalg.norm(clients[1].camera.position - before) > 0.05 * far, page)
        until(lambda: np.allclose(clients[0].camera.position, clients[1].camera.position, atol=0.01 * far), page)

        photos = pixels(right)
        page.frame_locator("iframe").first.get_by_label("Difference").check()
        until(lambda: (pixels(right) != photos).any(-1).mean() > 0.1, page)
        assert page.frame_locator("iframe").first.get_by_text("median").is_visible()
    finally:
        page.close()
        viewer.stop()
