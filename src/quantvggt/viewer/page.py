"""A Scene as one HTML file that needs no network: 3D view, cameras, the input images."""

import base64
import html
import io
import json
import os
import webbrowser
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quantvggt.core.files import atomic_file
from quantvggt.reconstruction.points import MIN_CONFIDENCE
from quantvggt.reconstruction.scene import Scene
from quantvggt.reconstruction.style import camera_colours
from quantvggt.viewer.figure import MAX_POINTS, figure_and_views

THUMBNAIL_HEIGHT = 104


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
    page = _template().substitute(
        title=html.escape(title),
        thumbnail_height=THUMBNAIL_HEIGHT,
        facts="".join(f"<li>{html.escape(fact)}</li>" for fact in _facts(scene, len(plot.data[0].x))),
        plot=plot.to_html(
            full_html=False,
            include_plotlyjs=True,
            div_id="scene",
            default_height="100%",
            config={"displaylogo": False, "responsive": True, "scrollZoom": True, "displayModeBar": False},
        ),
        thumbnails="\n".join(_thumbnails(scene)),
        views=_json(views),
        overview=_json(plot.layout.scene.camera.to_plotly_json()),
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


def _thumbnails(scene: Scene) -> list[str]:
    colours = camera_colours(len(scene.names))
    return [
        f'<button type="button" data-frame="{index}" style="--camera: rgb{colour}" title="{html.escape(name)}">'
        f'<img src="{_data_uri(image)}" alt="{html.escape(name)}"></button>'
        for index, (name, image, colour) in enumerate(zip(scene.names, scene.images, colours, strict=True))
    ]


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    image = Image.fromarray(pixels)
    if image.height > 2 * THUMBNAIL_HEIGHT:  # twice, for screens of high density
        image.thumbnail((8 * THUMBNAIL_HEIGHT, 2 * THUMBNAIL_HEIGHT), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _json(value: object) -> str:
    """JSON that can stand inside a script element."""
    return json.dumps(value).replace("<", "\\u003c")


def _template() -> Template:
    return Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
