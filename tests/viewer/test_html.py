"""Templates, and what stands in the pages that they make."""

import base64
import io

import numpy as np
import plotly.graph_objects as go
import pytest
from jinja2 import UndefinedError
from markupsafe import Markup
from PIL import Image

from quantvggt.viewer.html import data_uri, embed, render


def test_a_template_escapes_what_is_not_markup(tmp_path):
    (tmp_path / "part.css").write_text("p { color: {{ colour }} }")
    template = tmp_path / "page.html"
    template.write_text('{% include "part.css" %}<p title="{{ text }}">{{ text }}{{ plot }}</p>')
    page = render(template, text="\"><script>&'", plot=Markup("<b></b>"), colour="red")
    safe = "&#34;&gt;&lt;script&gt;&amp;&#39;"
    assert page == f'p {{ color: red }}<p title="{safe}">{safe}<b></b></p>'
    with pytest.raises(UndefinedError, match="text"):
        render(template, plot="", colour="")


def test_text_in_a_figure_ends_no_script():
    element = embed(go.Figure(go.Scatter(x=[0], y=[0], text=["</script><script>"])), "it")
    assert element.count("<script") == element.count("</script>") == 1
    assert 'id="it"' in element


@pytest.mark.parametrize(("kind", "error"), [("PNG", 0), ("JPEG", 12)])
def test_an_image_keeps_its_shape_and_is_never_made_larger(kind, error):
    pixels = np.full((40, 80, 3), (200, 100, 50), np.uint8)
    for largest, size in (((20, 20), (20, 10)), ((500, 500), (80, 40))):
        head, _, data = data_uri(pixels, largest, kind).partition(",")
        assert head == f"data:image/{kind.lower()};base64"
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert image.size == size
        assert np.abs(np.asarray(image).astype(int) - pixels[0, 0]).max() <= error
