"""The viewer's page: stands alone, is safe, and shows the scene as it is, right side up."""

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.geometry import camera_centres
from quantvggt.reconstruction.points import select_points
from quantvggt.reconstruction.scene import Scene
from quantvggt.viewer.figure import figure, figure_and_views, set_stage
from quantvggt.viewer.page import open_page, write_page
from truth_scene import small_scene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene(seed=4, frames=4)


def coordinates(trace: go.Scatter3d) -> np.ndarray:
    return np.stack([trace.x, trace.y, trace.z], -1).astype(np.float64)


def pyramids(plot: go.Figure) -> np.ndarray:
    """The cameras of a figure: [S, 5, 3], centre first, then the corners clockwise from the top left."""
    lines = coordinates(plot.data[1])
    return lines.reshape(-1, 13, 3)[:, [0, 1, 2, 4, 5]]


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of title and h1."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.open = tag

    def handle_data(self, data: str) -> None:
        if self.open in ("title", "h1"):
            self.text.setdefault(self.open, data)


def test_the_figure_is_the_scene_turned_but_not_bent(scene: Scene) -> None:
    plot = figure(scene, max_points=10**6, min_confidence=0)
    cloud = select_points(scene, 0)
    shown = coordinates(plot.data[0])
    assert len(shown) == len(cloud)
    pick = np.random.default_rng(0).integers(0, len(cloud), (2, 200))
    distances = [np.linalg.norm(xyz[pick[0]] - xyz[pick[1]], axis=1) for xyz in (shown, cloud.xyz)]
    np.testing.assert_allclose(*distances, rtol=1e-3, atol=1e-4)
    turn = set_stage(scene, cloud).rotation
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(turn) > 0, "a mirrored scene"
    red, green, blue = cloud.rgb[17]
    assert plot.data[0].marker.color[17] == f"#{red:02x}{green:02x}{blue:02x}"
    assert plot.layout.scene.aspectmode == "cube"
    sides = [np.ptp(plot.layout.scene[f"{axis}axis"].range) for axis in "xyz"]
    np.testing.assert_allclose(sides, sides[0])


def test_it_is_right_side_up(scene: Scene) -> None:
    """z is up in the figure: every image's top edge lies above its bottom edge, and left stays left."""
    corners = pyramids(figure(scene))
    assert (corners[:, [1, 2], 2].mean(1) > corners[:, [3, 4], 2].mean(1)).all()
    centre, top_left, top_right, *_ = corners[0]
    assert top_right[0] > top_left[0]
    assert corners[0, 1:, 1].mean() > centre[1], "the first camera looks away from the viewer, along +y"


def test_up_is_vertical_for_level_cameras_that_look_down(scene: Scene) -> None:
    """An orbit of cameras pitched 40 degrees down stands on a level floor, however they are pitched."""
    pitch = np.radians(40)
    cameras = []
    for yaw in np.radians([0, 60, 120, 200]):
        around = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        down = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
        cameras.append(np.hstack([down @ around, np.zeros((3, 1))]))
    orbit = dataclasses.replace(scene, extrinsics=np.stack(cameras).astype(np.float32))
    up = set_stage(orbit, select_points(scene)).rotation[2]
    assert np.degrees(np.arccos(up @ [0, -1, 0])) < 1


def test_the_first_view_is_from_behind_the_first_camera(scene: Scene) -> None:
    plot = figure(scene)
    stage = set_stage(scene, select_points(scene, max_points=60_000))
    eye = np.array([plot.layout.scene.camera.eye[axis] for axis in "xyz"]) * 2 * stage.half + stage.centre
    first = stage.turn(camera_centres(scene.extrinsics))[0]
    forward = stage.turn(scene.extrinsics[0, 2, :3])
    assert (eye - first) @ forward < 0


def test_each_frames_view_looks_where_its_camera_looks(scene: Scene) -> None:
    plot, views = figure_and_views(scene, 1000, 50)
    for corners, view in zip(pyramids(plot), views, strict=True):
        eye, target = (np.array([view[end][axis] for axis in "xyz"]) for end in ("eye", "center"))
        ahead, wanted = target - eye, corners[1:].mean(0) - corners[0]
        cosine = ahead @ wanted / np.linalg.norm(ahead) / np.linalg.norm(wanted)
        assert cosine > 0.999


def test_points_are_limited_and_cameras_are_named(scene: Scene) -> None:
    plot = figure(dataclasses.replace(scene, names=["a", "<b>", "c&d", "e"]), max_points=100)
    assert 90 <= len(plot.data[0].x) <= 100
    assert set(plot.data[1].text) == {"a", "&lt;b&gt;", "c&amp;d", "e"}
    with pytest.raises(InputError, match="max_points"):
        figure(scene, max_points=0)


def test_a_stray_point_far_away_does_not_shrink_the_scene(scene: Scene) -> None:
    points = scene.points.copy()
    cloud = select_points(scene)
    points[cloud.frame[5], cloud.row[5], cloud.column[5]] *= 10_000
    plain, strayed = (
        figure(shown, min_confidence=50).layout.scene for shown in (scene, dataclasses.replace(scene, points=points))
    )
    assert np.ptp(strayed.xaxis.range) < 1.2 * np.ptp(plain.xaxis.range)


def test_a_single_frame_works() -> None:
    plot, views = figure_and_views(small_scene(frames=1), 1000, 50)
    assert len(views) == 1
    assert np.isfinite(coordinates(plot.data[0])).all()


def test_the_page_needs_no_network(scene: Scene, tmp_path: Path) -> None:
    path = write_page(scene, tmp_path / "sub" / "page.html", title="Garden")
    page = path.read_text(encoding="utf-8")
    elements = Elements(page)
    for _, attributes in elements.found:
        for name in ("src", "href"):
            assert not re.match(r"(https?:)?//", attributes.get(name) or "")
    assert page.count("plotly.js v") == 1
    assert elements.text == {"title": "Garden", "h1": "Garden"}
    assert "4 frames" in page


def test_the_page_shows_every_input_image(scene: Scene, tmp_path: Path) -> None:
    page = write_page(scene, tmp_path / "page.html").read_text(encoding="utf-8")
    images = [attributes for tag, attributes in Elements(page).found if tag == "img"]
    assert [image["alt"] for image in images] == scene.names
    for image, expected in zip(images, scene.images, strict=True):
        kind, data = (image["src"] or "").split(",")
        assert kind == "data:image/jpeg;base64"
        decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert np.abs(decoded.astype(int) - expected).mean() < 12


def test_text_is_escaped(scene: Scene, tmp_path: Path) -> None:
    evil = '"></script><script>alert(1)</script><img src=x onerror=alert(2)>{{ plot }}'
    bad = dataclasses.replace(
        scene,
        names=[f"{index}{evil}" for index in range(4)],
        provenance={"model": evil, "scheme": evil, "method": evil},
    )
    elements, plain = (
        Elements(write_page(shown, tmp_path / "page.html", title=title).read_text(encoding="utf-8"))
        for shown, title in ((bad, evil), (scene, "Scene"))
    )
    assert [tag for tag, _ in elements.found if tag == "script"] == [tag for tag, _ in plain.found if tag == "script"]
    assert sum(tag == "img" for tag, _ in elements.found) == len(scene.names)
    assert not any("onerror" in attributes for _, attributes in elements.found)
    assert elements.text["h1"] == evil


def test_a_page_that_cannot_be_written(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        write_page(scene, tmp_path / "file" / "page.html")


def test_opening_hands_the_browser_a_file_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    assert open_page(tmp_path / "a b.html")
    assert opened == [(tmp_path / "a b.html").as_uri()]
