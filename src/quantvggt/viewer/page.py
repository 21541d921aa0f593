"""A Scene as one HTML file that needs no network: 3D view, cameras, the input images."""

import os
import webbrowser
from pathlib import Path

from quantvggt.core.files import atomic_file
from quantvggt.reconstruction.points import MIN_CONFIDENCE
from quantvggt.reconstruction.scene import Scene
from quantvggt.reconstruction.style import camera_colours
from quantvggt.viewer.figure import MAX_POINTS, figure_and_views
from quantvggt.viewer.html import data_uri, embed, render

THUMBNAIL_HEIGHT = 104
_LARGEST = (8 * THUMBNAIL_HEIGHT, 2 * THUMBNAIL_HEIGHT)
"""Of a thumbnail's own pixels: twice its height, for screens of high density."""


def write_page(
    scene: Scene,
    path: str | os.PathLike[str],
    title: str = "Scene",
    max_points: int = MAX_POINTS,
    min_confidence: float = MIN_CONFIDENCE,
) -> Path:
    """Write the page to `path` and return it; an existing file is replaced.

    A click on an image looks through its camera. max_points and min_confidence choose the points, see
    `select_points`. Raises InputError if they are out of range or the file can't be written.
    """
    path = Path(path)
    plot, views = figure_and_views(scene, max_points, min_confidence)
    thumbnails = [data_uri(image, _LARGEST, "JPEG") for image in scene.images]
    page = render(
        Path(__file__).with_name("page.html"),
        title=title,
        facts=_facts(scene, len(plot.data[0].x)),
        plot=embed(plot, "scene"),
        thumbnail_height=THUMBNAIL_HEIGHT,
        thumbnails=list(zip(scene.names, thumbnails, camera_colours(len(scene.names)), strict=True)),
        views=views,
        overview=plot.layout.scene.camera.to_plotly_json(),
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def open_page(path: str | os.PathLike[str]) -> bool:
    """Show a page in the user's browser; False if there is none to be found."""
    return webbrowser.open(Path(path).resolve().as_uri())


def _facts(scene: Scene, points: int) -> list[str]:
    frames = len(scene.names)
    facts = [f"{frames} frame{'s' if frames != 1 else ''}", f"{points:,} points"]
    made_by = [scene.provenance.get(key) for key in ("model", "scheme", "method")]
    return facts + [str(value) for value in made_by if value and value != "float"]
