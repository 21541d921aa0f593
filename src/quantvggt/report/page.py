"""The report as one standalone HTML page: no network, plotly.js inlined once."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image
from plotly.offline import get_plotlyjs

from quantvggt.evaluate.run import Row
from quantvggt.reconstruction.scene import Scene
from quantvggt.reconstruction.style import ramp
from quantvggt.report.plots import auc_plot, drift_plot, method_colours, size_plot
from quantvggt.report.style import STYLE, SYNC_VIEWS
from quantvggt.report.table import COLUMNS, MEANINGS, Column, cell, full_precision, human_bytes, label, shrinkage
from quantvggt.viewer.figure import figure as scene_figure

_THUMBNAIL_SIDE = 224


def report_page(
    rows: Sequence[Row],
    scenes: Mapping[str, Scene],
    highlight: Row | None,
    title: str,
    summary: str,
    provenance: Mapping[str, Any],
) -> str:
    """HTML text. The arguments are those of `quantvggt.report.write.write_report`; all text is escaped."""
    sections = [
        _header(title, summary),
        _cards(rows, highlight) if highlight else "",
        _section(
            "Results",
            "Small numbers are the difference from full precision.",
            f'<div class="scroll">{_table(rows)}</div>',
        ),
        _section(
            "Drift from full precision",
            "How far quantization moved the model's own answers. Lower is better; the axis is logarithmic.",
            _wide(drift_plot(rows)),
        ),
        _section("Camera accuracy", "The dotted line is full precision; higher is better.", _wide(auc_plot(rows))),
        _section(
            "Accuracy against size",
            "Each mark is one checkpoint. Up and to the left is better.",
            _wide(size_plot(rows)),
        ),
        _scenes(scenes) if scenes else "",
        _section("What the columns mean", "", _meanings()),
        _section("How this was measured", "", _provenance(provenance)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><script>{get_plotlyjs()}</script></head>"
        f"<body><main>{''.join(sections)}</main><script>{SYNC_VIEWS}</script></body></html>\n"
    )


def _header(title: str, summary: str) -> str:
    return f'<header><p class="brand">quantvggt</p><h1>{escape(title)}</h1><p>{escape(summary)}</p></header>'


def _section(title: str, note: str, body: str) -> str:
    lead = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{lead}{body}</section>"


def _cards(rows: Sequence[Row], highlight: Row) -> str:
    base = full_precision(rows)
    factor = f"{human_bytes(base['checkpoint_bytes'])} in FP16: {shrinkage(highlight, base):.2f}x smaller"
    cards = [("Checkpoint", human_bytes(highlight["checkpoint_bytes"]), factor)]
    for column in COLUMNS:
        value = cell(column, highlight, base)[0]
        if column.key in ("auc30", "depth_absrel"):
            cards.append((column.title, value, f"{cell(column, base, base)[0]} at full precision"))
        elif column.key == "drift_rotation_deg":
            rivals = [row for row in rows if row["scheme"] == highlight["scheme"] and row is not highlight]
            note = ", ".join(f"{cell(column, row, base)[0]} with {row['method']}" for row in rivals)
            cards.append((column.title, value, note or "median, against full precision"))
    body = "".join(
        f'<div class="card"><p>{escape(name)}</p><strong>{escape(value)}</strong><p>{escape(note)}</p></div>'
        for name, value, note in cards
    )
    return f'<section><h2>{escape(label(highlight))} at a glance</h2><div class="cards">{body}</div></section>'


def _table(rows: Sequence[Row]) -> str:
    base, colours = full_precision(rows), method_colours(rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in ("Scheme", "Method", "Checkpoint"))
    head += "".join(f"<th>{escape(column.title)}<br>{_arrow(column)}</th>" for column in COLUMNS)
    body = ""
    for row in rows:
        dot = f'<i style="background:{colours[row["method"]]}"></i>'
        factor = "FP16" if row is base else f"{shrinkage(row, base):.2f}x smaller"
        cells = (
            f"<td><b>{escape(row['scheme'])}</b></td><td>{dot}{escape(row['method'])}</td>"
            f"<td>{human_bytes(row['checkpoint_bytes'])}<small>{factor}</small></td>"
        )
        cells += "".join(f"<td>{_cell(column, row, base)}</td>" for column in COLUMNS)
        body += f"<tr{' class=base' if row is base else ''}>{cells}</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _arrow(column: Column) -> str:
    return f'<span class="better">{"↑" if column.better == "higher" else "↓"} {column.better}</span>'


def _cell(column: Column, row: Row, base: Row) -> str:
    value, difference = cell(column, row, base)
    return escape(value) + (f"<small>{escape(difference)}</small>" if difference else "")


def _plot(figure: go.Figure) -> str:
    return figure.to_html(
        include_plotlyjs=False,
        full_html=False,
        config={"displaylogo": False, "responsive": True, "displayModeBar": False},
    )


def _wide(figure: go.Figure) -> str:
    """A row of plots, which a narrow screen scrolls through."""
    return f'<div class="scroll"><div class="plots">{_plot(figure)}</div></div>'


def _scenes(scenes: Mapping[str, Scene]) -> str:
    views = "".join(
        f'<figure class="view"><figcaption>{escape(name)}</figcaption>{_plot(scene_figure(scene))}</figure>'
        for name, scene in scenes.items()
    )
    return _section(
        "One scene in 3D",
        "The same images through each model. Drag to turn, scroll to zoom; the views move together.",
        f'<div class="views">{views}</div>{_strips(scenes)}',
    )


def _strips(scenes: Mapping[str, Scene]) -> str:
    """The input frames, and below them each model's depth maps, all coloured over one range."""
    first = next(iter(scenes.values()))
    known = first.depth[first.depth > 0]
    near, far = (float(bound) for bound in np.percentile(known, (2, 98))) if known.size else (0.0, 1.0)
    strips = [_strip("Input frames", first.images)]
    for name, scene in scenes.items():
        positive = scene.depth[scene.depth > 0]
        scale = float(np.median(known) / np.median(positive)) if known.size and positive.size else 1.0
        strips.append(_strip(f"Depth, {name}", _coloured(scene.depth * scale, near, far)))
    return "".join(strips)


def _strip(name: str, frames: NDArray[np.uint8]) -> str:
    images = "".join(f'<img src="{_png(frame)}" alt="{escape(name)} {i + 1}">' for i, frame in enumerate(frames))
    return f'<div class="strip"><p>{escape(name)}</p><div>{images}</div></div>'


def _coloured(depth: NDArray[np.float32], near: float, far: float) -> NDArray[np.uint8]:
    """Depth [S, H, W] -> RGB [S, H, W, 3]: near is bright, far is dark, no depth is pale grey."""
    colours = ramp(np.clip((far - depth) / max(far - near, 1e-9), 0, 1))
    colours[~(depth > 0)] = 236
    return colours


def _png(frame: NDArray[np.uint8]) -> str:
    image, buffer = Image.fromarray(frame), io.BytesIO()
    image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _meanings() -> str:
    entries = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in MEANINGS.items())
    return f"<dl>{entries}</dl>"


def _provenance(provenance: Mapping[str, Any]) -> str:
    entries = "".join(f"<dt>{escape(str(key))}</dt><dd>{_value(value)}</dd>" for key, value in provenance.items())
    return f'<dl class="facts">{entries}</dl>'


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "<br>".join(f"{escape(str(key))}: {_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))
