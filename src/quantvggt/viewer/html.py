"""What pages for the browser are made of: templates, plots and images, all inside one file."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from plotly.offline import get_plotlyjs


def render(template: Path, **values: Any) -> str:
    """The text that the Jinja2 template makes of `values`; it may include and extend its neighbours.

    Every value is escaped unless it is `Markup`, and one that is missing is an error. All templates know `plotlyjs`.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template.name).render(plotlyjs=Markup(get_plotlyjs()), **values)


def embed(figure: go.Figure, name: str | None = None) -> Markup:
    """A figure's element, for a page that has `plotlyjs`; name: its id, else a random one."""
    config = {"displaylogo": False, "responsive": True, "displayModeBar": False}
    return Markup(figure.to_html(include_plotlyjs=False, full_html=False, div_id=name, config=config))


def data_uri(pixels: NDArray[np.uint8], largest: tuple[int, int], kind: str) -> str:
    """An image [H, W, 3], made smaller where it exceeds `largest` (width, height), as the address of itself.

    kind: "PNG" or "JPEG".
    """
    image, stream = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail(largest, Image.Resampling.LANCZOS)
    image.save(stream, kind, quality=85, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
