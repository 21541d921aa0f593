"""How a calibration set was chosen, as one page for the browser."""

from html import escape

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from quantvggt.calibrate.sampling.features import PoolFeatures
from quantvggt.calibrate.sampling.selection import Selection
from quantvggt.calibrate.sampling.strategies import Choice, find_strategy
from quantvggt.report.page import TEMPLATES
from quantvggt.report.plots import INK, MUTED, STYLE, styled
from quantvggt.viewer.html import embed, render

_COLOURS = ("#0e7c86", "#e2763b", "#7c5cbf", "#3b82c4", "#b8336a", "#8a9a2b", "#a0623d", "#475569")


def selection_page(features: PoolFeatures, choice: Choice, selection: Selection) -> str:
    """HTML text that needs no network: the pool's noise scores with the filter's threshold, its clusters, and the
    chosen clips. The arguments belong together: what was seen, what was made of it, and the set."""
    grouped, settings = find_strategy(selection.strategy).groups or "nothing", selection.settings
    return render(
        TEMPLATES / "selection.html",
        title="Calibration set",
        summary=f"{len(selection)} of {selection.pool} clips, by {selection.strategy} with seed {selection.seed}, "
        f"as {selection.model} sees them. Filter: {settings.rule}, drop {settings.drop:g}; "
        f"clusters: {settings.clusters}; correlation: {settings.correlation}.",
        pool=len(choice.kept),
        dropped=int((~choice.kept).sum()),
        groups=grouped,
        vectors="feature" if grouped == "feature" else "first-frame correlation",
        plots={
            "scores": embed(score_plot(features, choice)),
            "clusters": embed(cluster_plot(features, choice, selection)),
        },
        clips=[_clip(features, selection, place) for place in range(len(selection))],
        **STYLE,
    )


def _clip(features: PoolFeatures, selection: Selection, place: int) -> tuple[int, str, str, str, str]:
    """A line of the table: which clip of the pool, its first frame, label, group and noise score."""
    index, group = selection.indices[place], selection.clusters[place]
    name, score = selection.clips[place].names[0], f"{selection.scores[place]:.2f}"
    return index, name, features.labels[index], "-" if group < 0 else str(group), score


def score_plot(features: PoolFeatures, choice: Choice) -> go.Figure:
    """Scores in ascending order: dropped, passed and chosen clips, and the threshold (or one for each label)."""
    order = np.argsort(choice.scores)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    is_chosen = np.isin(np.arange(len(order)), choice.indices)
    figure = go.Figure()
    for name, mask, colour in (
        ("dropped", ~choice.kept & ~is_chosen, "#e2763b"),
        ("passed", choice.kept & ~is_chosen, "#94a3b8"),
        ("chosen", is_chosen, "#0e7c86"),
    ):
        _markers(figure, name, mask, rank, choice.scores, features, {"color": colour, "size": 8})
    for label, threshold in choice.thresholds.items():
        note = "" if label == "all" else label
        line = {"color": INK, "dash": "dot", "width": 1.2}
        figure.add_hline(y=threshold, line=line, annotation_text=escape(note))
    figure.update_xaxes(title="clips, by score")
    figure.update_yaxes(title="noise score")
    return styled(figure, height=380, bottom=52)


def cluster_plot(features: PoolFeatures, choice: Choice, selection: Selection) -> go.Figure:
    """The vectors that were clustered, on their two main axes, coloured by cluster; grey crosses took no part."""
    by_feature = find_strategy(selection.strategy).groups == "feature"
    vectors = features.pooled if by_feature else getattr(features, selection.settings.correlation)
    x, y = _main_axes(vectors).T
    figure = go.Figure()
    for group in np.unique(choice.clusters).tolist():
        name = f"group {group}" if group >= 0 else "no group"
        marker = {"color": MUTED, "symbol": "x-thin-open", "size": 7}
        if group >= 0:
            marker = {"color": _COLOURS[group % len(_COLOURS)], "symbol": "circle", "size": 8}
        _markers(figure, name, choice.clusters == group, x, y, features, marker)
    rings = np.isin(np.arange(len(x)), choice.indices)
    ring = {"color": INK, "symbol": "circle-open", "size": 14, "line": {"width": 1.5}}
    _markers(figure, "chosen", rings, x, y, features, ring)
    figure.update_xaxes(title="first axis")
    figure.update_yaxes(title="second axis")
    return styled(figure, height=460, bottom=52)


def _markers(
    figure: go.Figure,
    name: str,
    mask: NDArray[np.bool_],
    x: NDArray[np.generic],
    y: NDArray[np.float64],
    features: PoolFeatures,
    marker: dict[str, object],
) -> None:
    if mask.any():
        hover = [f"clip {index}, {escape(features.labels[index])}" for index in np.flatnonzero(mask)]
        figure.add_scatter(
            x=x[mask].tolist(),
            y=y[mask].tolist(),
            mode="markers",
            name=name,
            marker=marker,
            text=hover,
            hoverinfo="text",
        )


def _main_axes(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Principal component scores [n, 2] of vectors [n, d]; zeros where there are fewer than two axes."""
    left, values, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    scores = (left * values)[:, :2]
    return np.pad(scores, ((0, 0), (0, 2 - scores.shape[1])))
