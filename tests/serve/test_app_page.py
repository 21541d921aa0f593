"""What a visitor is told, in words that a file's name can't break out of."""

from pathlib import Path

import numpy as np
import pytest

from quantvggt.serve.app_studio import Comparison, Made
from quantvggt.serve.limits import Limits

pytest.importorskip("gradio", reason="no gradio: pip install 'quantvggt[app]'")

FACTS = {"frames": 3, "width": 70, "height": 56, "points": 12345, "left_out": [], "warnings": []}


def test_what_came_out() -> None:
    from quantvggt.serve.app_page import frames_html, limits_text, made_text

    assert "256 pictures or one video, 512 MiB" in limits_text(Limits())
    made = Made("token", Path(), {}, FACTS, 1.25)
    assert "12,345 points" in made_text(made)
    assert "1.2 s" in made_text(made)
    assert frames_html(made, "/scenes").count("<iframe") == 1
    heat = [(np.zeros((2, 2, 3), np.uint8), "a")]
    both = Made("token", Path(), {}, FACTS, 1.0, Comparison(2.0, 0.0123, 0.5, 0.0456, 0.05, heat))
    assert "1.23% of the mean viewing distance, cameras turned by 0.5 degrees, depth 4.56%" in made_text(both)
    assert 'src="/scenes/token/reference"' in frames_html(both, "/scenes")
    assert 'sandbox="allow-scripts"' in frames_html(both, "/scenes")


def test_names_stay_names() -> None:
    from quantvggt.serve.app_page import made_text

    evil = "`<img src=x onerror=alert(1)>`.jpg"
    text = made_text(Made("t", Path(), {}, {**FACTS, "left_out": [evil], "warnings": [evil]}, 1.0, incomparable=evil))
    assert text.count("` <img src=x onerror=alert(1)> .jpg`") == 3


def test_a_visitor_stops_their_own_job() -> None:
    from quantvggt.serve.app_page import _Stops

    stops = _Stops()
    ours, theirs = stops.begin("we"), stops.begin("they")
    stops.stop("we")
    stops.stop("we")
    stops.stop("nobody")
    assert ours.is_set()
    assert not theirs.is_set()
    assert not stops.begin("we").is_set()
