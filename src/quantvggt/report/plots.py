"""The report's plots, as plotly figures."""

from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from quantvggt.evaluate.run import AUC_THRESHOLDS, Row
from quantvggt.report.table import full_precision, human_bytes, label

INK, MUTED, RULE = "#1e293b", "#64748b", "#e2e8f0"
FONT = "Inter, system-ui, -apple-system, Segoe UI, Roboto, sans-serif"
STYLE = {"ink": INK, "muted": MUTED, "rule": RULE, "font": FONT}
"""What templates/style.css needs, so that pages and plots look alike."""

_METHOD_COLOURS = {"float": "#475569", "rtn": "#e2763b", "dsfq": "#0e7c86"}
_METHOD_COLOURS |= {"best": "#7c5cbf", "barq-2": "#7c5cbf", "barq-1": "#c2b0e6"}
_MORE_COLOURS = ("#b8336a", "#3b82c4", "#8a9a2b", "#a0623d")
_LEVEL = {"color": INK, "dash": "dot", "width": 1.2}
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "star", "hexagon", "cross")


def method_colours(rows: Sequence[Row]) -> dict[str, str]:
    """One fixed colour per method that occurs."""
    spare = iter(_MORE_COLOURS * len(rows))
    return {method: _METHOD_COLOURS.get(method) or next(spare) for method in _distinct(rows, "method")}


def size_plot(rows: Sequence[Row]) -> go.Figure:
    """Camera accuracy against checkpoint bytes, at the widest and a narrow threshold."""
    base, colours = full_precision(rows), method_colours(rows)
    symbols = dict(zip(_distinct(rows, "scheme"), _SYMBOLS * len(rows), strict=False))
    figure = make_subplots(cols=2, subplot_titles=["AUC@30", "AUC@5"], horizontal_spacing=0.09)
    for position, key in enumerate(("auc30", "auc5"), start=1):
        for method in colours:
            own = [row for row in rows if row["method"] == method]
            figure.add_scatter(
                x=[row["checkpoint_bytes"] / 1e6 for row in own],
                y=[100 * row[key] for row in own],
                mode="markers",
                cliponaxis=False,
                marker={
                    "size": 13,
                    "opacity": 0.85,
                    "color": colours[method],
                    "symbol": [symbols[row["scheme"]] for row in own],
                    "line": {"color": "white", "width": 1.5},
                },
                customdata=[[label(row), human_bytes(row["checkpoint_bytes"])] for row in own],
                hovertemplate="%{customdata[0]}<br>%{customdata[1]}, %{y:.1f}<extra></extra>",
                showlegend=False,
                row=1,
                col=position,
            )
        figure.add_hline(y=100 * base[key], line=_LEVEL, row=1, col=position)
    for method, colour in colours.items():
        _legend_entry(figure, "full precision" if method == "float" else method, {"color": colour})
    for scheme, symbol in symbols.items():
        if scheme != base["scheme"]:
            outline = {"color": MUTED, "width": 1.5}
            _legend_entry(figure, scheme.upper(), {"color": "white", "symbol": symbol, "line": outline})
    figure.update_xaxes(title="checkpoint, MB", rangemode="tozero")
    return styled(figure, height=410, bottom=52)


def auc_plot(rows: Sequence[Row]) -> go.Figure:
    """Bars per scheme and method for each AUC threshold; the dotted line is full precision."""
    base = full_precision(rows)
    titles = [f"AUC@{threshold}" for threshold in AUC_THRESHOLDS]
    figure = make_subplots(cols=len(titles), subplot_titles=titles, horizontal_spacing=0.05)
    for position, threshold in enumerate(AUC_THRESHOLDS, start=1):
        key = f"auc{threshold}"
        _grouped_bars(figure, rows, position, key, factor=100, places=1)
        figure.add_hline(y=100 * base[key], line=_LEVEL, layer="below", row=1, col=position)
        top = max(100 * row[key] for row in rows)
        figure.update_yaxes(range=[0, max(1.0, 1.14 * top)], row=1, col=position)
    return styled(figure, height=310)


def drift_plot(rows: Sequence[Row]) -> go.Figure:
    """Bars on a logarithmic axis: each method's drift from full precision, per scheme."""
    drifts = {
        "Relative rotation, degrees": ("drift_rotation_deg", 1),
        "Direction of motion, degrees": ("drift_translation_deg", 1),
        "Depth, percent": ("drift_depth", 100),
    }
    figure = make_subplots(cols=len(drifts), subplot_titles=list(drifts), horizontal_spacing=0.07)
    for position, (key, factor) in enumerate(drifts.values(), start=1):
        _grouped_bars(figure, rows, position, key, factor, places=2)
    figure.update_yaxes(type="log", dtick=1, minor={"showgrid": False})
    return styled(figure, height=330)


def _grouped_bars(figure: go.Figure, rows: Sequence[Row], position: int, key: str, factor: int, places: int) -> None:
    """One group per scheme, one bar per method, into subplot `position`."""
    for method, colour in method_colours(rows).items():
        own = [row for row in rows if row["method"] == method != "float" and row[key] is not None]
        if own:
            values = [factor * row[key] for row in own]
            figure.add_bar(
                x=[row["scheme"].upper() for row in own],
                y=values,
                text=[f"{value:.{places}f}" for value in values],
                textposition="outside",
                textfont={"size": 10.5},
                cliponaxis=False,
                marker={"color": colour, "cornerradius": 3},
                name=method,
                legendgroup=method,
                showlegend=position == 1,
                hovertemplate=f"%{{x}} {method}: %{{text}}<extra></extra>",
                row=1,
                col=position,
            )


def _legend_entry(figure: go.Figure, name: str, marker: dict[str, Any]) -> None:
    figure.add_scatter(x=[None], y=[None], mode="markers", marker={"size": 10, **marker}, name=name)


def _distinct(rows: Iterable[Row], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def styled(figure: go.Figure, height: int, bottom: int = 28) -> go.Figure:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 48, "r": 16, "t": 62, "b": bottom},
        font={"family": FONT, "size": 12, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
        bargap=0.22,
        bargroupgap=0.08,
        hoverlabel={"font": {"family": FONT}},
    )
    figure.update_xaxes(showgrid=False, linecolor=RULE, ticks="", zeroline=False)
    figure.update_yaxes(gridcolor=RULE, zeroline=False, ticks="")
    figure.update_annotations(font={"size": 12.5, "color": MUTED})
    return figure
