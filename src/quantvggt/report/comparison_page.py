"""Models on the same frames as one standalone HTML page: table, plots, and what the numbers rest on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from quantvggt.evaluate.config import PaperTable
from quantvggt.evaluate.protocols.contract import Protocol
from quantvggt.evaluate.run import Row
from quantvggt.report.comparison import columns_of, shown, told_of
from quantvggt.report.plots import INK, MUTED, STYLE, method_colours, styled
from quantvggt.report.table import Column, human_bytes
from quantvggt.viewer.html import embed, render

TEMPLATES = Path(__file__).with_name("templates")
PLOTTED = 4
"""Numbers at most that have a plot."""


def comparison_page(
    rows: Sequence[Row],
    protocol: Protocol,
    table: PaperTable | None,
    found: Mapping[str, Any],
    referenced: bool,
) -> str:
    """HTML text; all text is escaped. found: what results.json holds; referenced: the first row is full precision."""
    columns = columns_of(rows)
    first = rows[0]
    title = table.title if table else f"{protocol.name}: {len(rows)} model{'s' * (len(rows) > 1)}"
    summary = (
        f"{first['scenes']} scenes of {protocol.dataset}, {first['frames']} frames, by protocol {protocol.name}."
        + (f" Relative poses in the form {protocol.relpose}." if protocol.relpose else "")
    )
    told = ("versions", "machine", "commit", "missing")
    return render(
        TEMPLATES / "comparison.html",
        title=title,
        summary=summary,
        about=protocol.about,
        rows=rows,
        base=first if referenced else None,
        names=names_of(rows),
        columns=columns,
        colours=method_colours(rows),
        quoted=table.rows if table else (),
        table=table,
        plot=embed(_intervals(rows, columns, table)),
        provenance={name: found[name] for name in told if found.get(name)},
        shown=shown,
        human_bytes=human_bytes,
        **STYLE,
    )


def names_of(rows: Sequence[Row]) -> list[str]:
    """Of models, without the folders that they lie in unless two would be alike."""
    short = [Path(row["model"]).name for row in rows]
    names = [name if short.count(name) == 1 else row["model"] for name, row in zip(short, rows, strict=True)]
    return [name + told_of(row) for name, row in zip(names, rows, strict=True)]


def _intervals(rows: Sequence[Row], columns: Sequence[Column], table: PaperTable | None) -> go.Figure:
    """A panel for each of the first numbers: every model's with its interval, and the published ones of its scheme."""
    stated = {key for row in table.rows for key in row.published} if table else set()
    known = [column for column in columns if any(column.key in row["intervals"] for row in rows)] or columns
    chosen = ([column for column in known if column.key in stated] or list(known))[:PLOTTED]
    names, colours = names_of(rows), method_colours(rows)
    figure = make_subplots(
        cols=len(chosen), subplot_titles=[column.title for column in chosen], shared_yaxes=True, horizontal_spacing=0.03
    )
    for place, column in enumerate(chosen, start=1):
        factor = 100 if column.key.startswith("auc") else 1
        for name, row in zip(names, rows, strict=True):
            value = row.get(column.key)
            if value is None:
                continue
            low, high = row["intervals"].get(column.key, (value, value))
            figure.add_scatter(
                x=[factor * value],
                y=[name],
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [factor * max(0.0, high - value)],
                    "arrayminus": [factor * max(0.0, value - low)],
                    "color": colours[row["method"]],
                },
                mode="markers",
                marker={"size": 11, "color": colours[row["method"]]},
                showlegend=False,
                hovertemplate=f"{name}: {column.show(value)}<extra></extra>",
                row=1,
                col=place,
            )
            for quoted in table.rows if table else ():
                if (
                    quoted.method == _plain(row["method"])
                    and quoted.scheme == row["scheme"]
                    and column.key in quoted.published
                ):
                    figure.add_scatter(
                        x=[factor * quoted.published[column.key]],
                        y=[name],
                        mode="markers",
                        marker={"size": 12, "symbol": "diamond-open", "color": INK},
                        showlegend=False,
                        hovertemplate=f"{quoted.label}, published: %{{x}}<extra></extra>",
                        row=1,
                        col=place,
                    )
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False)
    styled(figure, height=130 + 34 * len(rows))
    figure.update_xaxes(showgrid=True, gridcolor="#e2e8f0", tickfont={"color": MUTED})
    return figure


def _plain(method: str) -> str | None:
    """What tables of papers call the method: full precision has none."""
    return None if method == "float" else method
