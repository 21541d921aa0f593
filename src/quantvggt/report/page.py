"""The report as one standalone HTML page: no network, plotly.js inlined once."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantvggt.evaluate.run import Row
from quantvggt.reconstruction.scene import Scene
from quantvggt.reconstruction.style import ramp
from quantvggt.report.plots import STYLE, auc_plot, drift_plot, method_colours, size_plot
from quantvggt.report.table import COLUMNS, MEANINGS, cell, full_precision, human_bytes, label, shrinkage
from quantvggt.viewer.figure import figure as scene_figure
from quantvggt.viewer.html import data_uri, embed, render

TEMPLATES = Path(__file__).with_name("templates")
_THUMBNAIL = (224, 224)


def report_page(
    rows: Sequence[Row],
    scenes: Mapping[str, Scene],
    highlight: Row | None,
    title: str,
    summary: str,
    provenance: Mapping[str, Any],
) -> str:
    """HTML text. The arguments are those of `quantvggt.report.write.write_report`; all text is escaped."""
    return render(
        TEMPLATES / "report.html",
        title=title,
        summary=summary,
        rows=rows,
        base=full_precision(rows),
        highlight=highlight,
        cards=list(_cards(rows, highlight)) if highlight else [],
        columns=COLUMNS,
        meanings=MEANINGS,
        colours=method_colours(rows),
        plots={"drift": embed(drift_plot(rows)), "auc": embed(auc_plot(rows)), "size": embed(size_plot(rows))},
        views={name: embed(scene_figure(scene)) for name, scene in scenes.items()},
        strips=dict(_strips(scenes)) if scenes else {},
        provenance=provenance,
        cell=cell,
        human_bytes=human_bytes,
        label=label,
        shrinkage=shrinkage,
        **STYLE,
    )


def _cards(rows: Sequence[Row], highlight: Row) -> Iterator[tuple[str, str, str]]:
    """What the page opens with: title, number and note of each card."""
    base = full_precision(rows)
    factor = f"{human_bytes(base['checkpoint_bytes'])} in FP16: {shrinkage(highlight, base):.2f}x smaller"
    yield "Checkpoint", human_bytes(highlight["checkpoint_bytes"]), factor
    for column in COLUMNS:
        value = cell(column, highlight, base)[0]
        if column.key in ("auc30", "depth_absrel"):
            yield column.title, value, f"{cell(column, base, base)[0]} at full precision"
        elif column.key == "drift_rotation_deg":
            rivals = [row for row in rows if row["scheme"] == highlight["scheme"] and row is not highlight]
            note = ", ".join(f"{cell(column, row, base)[0]} with {row['method']}" for row in rivals)
            yield column.title, value, note or "median, against full precision"


def _strips(scenes: Mapping[str, Scene]) -> Iterator[tuple[str, list[str]]]:
    """The input frames, and below them each model's depth maps, all coloured over one range."""
    first = next(iter(scenes.values()))
    known = first.depth[first.depth > 0]
    near, far = (float(bound) for bound in np.percentile(known, (2, 98))) if known.size else (0.0, 1.0)
    yield "Input frames", _images(first.images)
    for name, scene in scenes.items():
        positive = scene.depth[scene.depth > 0]
        scale = float(np.median(known) / np.median(positive)) if known.size and positive.size else 1.0
        yield f"Depth, {name}", _images(_coloured(scene.depth * scale, near, far))


def _images(frames: NDArray[np.uint8]) -> list[str]:
    return [data_uri(frame, _THUMBNAIL, "PNG") for frame in frames]


def _coloured(depth: NDArray[np.float32], near: float, far: float) -> NDArray[np.uint8]:
    """Depth [S, H, W] -> RGB [S, H, W, 3]: near is bright, far is dark, no depth is pale grey."""
    colours = ramp(np.clip((far - depth) / max(far - near, 1e-9), 0, 1))
    colours[~(depth > 0)] = 236
    return colours
