"""A Scene as an interactive plotly figure, right side up, seen from behind the first camera."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from quantvggt.reconstruction.geometry import camera_centres, frustum, upright_axes
from quantvggt.reconstruction.points import MIN_CONFIDENCE, PointCloud, select_points
from quantvggt.reconstruction.scene import Scene
from quantvggt.reconstruction.style import camera_colours, frustum_length
from quantvggt.viewer.overview import overview

MAX_POINTS = 60_000
PLOT_HALF_ANGLE = np.pi / 8
"""Half the vertical field of view of plotly's perspective camera, which is fixed."""

Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class Stage:
    """Where a scene is put in plotly's cube: turned so that z is up, centred, scaled.

    rotation: [3, 3], rows are the stage's x (right), y (away from the first camera) and z (up) in the world;
    centre: in turned coordinates; half: half the cube's side, in the scene's unit.
    """

    rotation: Vectors
    centre: Vectors
    half: float

    def turn(self, points: NDArray[Any]) -> Vectors:
        """World points [..., 3] in the scene's unit, turned upright."""
        return points.astype(np.float64) @ self.rotation.T

    def view(self, eye: Vectors, target: Vectors) -> dict[str, Any]:
        """A plotly camera from turned coordinates; the cube's sides are 1 there."""
        eye, target = ((point - self.centre) / (2 * self.half) for point in (eye, target))
        return {"eye": _xyz(eye), "center": _xyz(target), "up": {"x": 0, "y": 0, "z": 1}}


def figure(scene: Scene, max_points: int = MAX_POINTS, min_confidence: float = MIN_CONFIDENCE) -> go.Figure:
    """Coloured points and camera pyramids; hovering over a pyramid shows its frame's name.

    The background is transparent, so it fits any page. Raises InputError as `select_points` does.
    """
    return figure_and_views(scene, max_points, min_confidence)[0]


def figure_and_views(scene: Scene, max_points: int, min_confidence: float) -> tuple[go.Figure, list[dict[str, Any]]]:
    """The figure, and for each frame the plotly camera that sees in it what the frame sees."""
    cloud = select_points(scene, min_confidence, max_points)
    stage = set_stage(scene, cloud)
    plot = go.Figure([_points(stage, cloud), _cameras(stage, scene)])
    axis = {"visible": False, "showspikes": False}
    ranges = [[float(middle - stage.half), float(middle + stage.half)] for middle in stage.centre]
    plot.update_layout(
        scene={
            **{f"{name}axis": {**axis, "range": limits} for name, limits in zip("xyz", ranges, strict=True)},
            "aspectmode": "cube",
            "camera": stage.view(*map(stage.turn, overview(scene, cloud.xyz))),
            "dragmode": "turntable",
            "bgcolor": "rgba(0,0,0,0)",
        },
        paper_bgcolor="rgba(0,0,0,0)",
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        showlegend=False,
    )
    return plot, _frame_views(scene, stage)


def set_stage(scene: Scene, cloud: PointCloud) -> Stage:
    """Turn the scene upright and make room for all cameras and all but the farthest stray points."""
    rotation = upright_axes(scene.extrinsics)
    turned = cloud.xyz.astype(np.float64) @ rotation.T
    centres = camera_centres(scene.extrinsics) @ rotation.T
    low, high = np.percentile(turned, [1, 99], axis=0)
    margin = 0.5 * (high - low)
    low, high = np.minimum(low - margin, centres.min(0)), np.maximum(high + margin, centres.max(0))
    half = float((high - low).max() / 2) + frustum_length(scene)
    return Stage(rotation, (low + high) / 2, half)


def _frame_views(scene: Scene, stage: Stage) -> list[dict[str, Any]]:
    centres = stage.turn(camera_centres(scene.extrinsics))
    forward = stage.turn(scene.extrinsics[:, 2, :3])
    views = []
    for frame, depth in enumerate(scene.depth):
        distance = float(np.median(depth[depth > 0])) if (depth > 0).any() else stage.half
        slope = scene.size[0] / 2 / scene.intrinsics[frame, 1, 1]
        # Step back (or forward) until plotly's own angle shows as much, at that distance, as the frame's.
        step = distance * (slope / np.tan(PLOT_HALF_ANGLE) - 1)
        ends = (centres[frame] - step * forward[frame], centres[frame] + distance * forward[frame])
        views.append(stage.view(*ends))
    return views


def _points(stage: Stage, cloud: PointCloud) -> go.Scatter3d:
    turned = stage.turn(cloud.xyz)
    inside = (np.abs(turned - stage.centre) <= stage.half).all(-1)
    x, y, z = turned[inside].astype(np.float32).T
    colours = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in cloud.rgb[inside].tolist()]
    marker = {"size": 2.5, "color": colours, "line": {"width": 0}}
    return go.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, hoverinfo="skip", name="points")


def _cameras(stage: Stage, scene: Scene) -> go.Scatter3d:
    """All pyramids as one line with gaps."""
    height, width = scene.size
    length = frustum_length(scene)
    order = [0, 1, 2, 0, 3, 4, 0, 2, 3, 0, 4, 1]
    gap = np.full((1, 3), np.nan)
    lines, colours, names = [], [], []
    for frame, (red, green, blue) in enumerate(camera_colours(len(scene.names))):
        corners = frustum(scene.extrinsics[frame], scene.intrinsics[frame], width, height, length)
        lines += [stage.turn(corners[order]), gap]
        colours += [f"#{red:02x}{green:02x}{blue:02x}"] * (len(order) + 1)
        names += [_escape(scene.names[frame])] * (len(order) + 1)
    x, y, z = np.concatenate(lines).astype(np.float32).T
    return go.Scatter3d(
        x=x,
        y=y,
        z=z,
        mode="lines",
        line={"width": 4, "color": colours},
        text=names,
        hovertemplate="%{text}<extra></extra>",
        name="cameras",
    )


def _escape(text: str) -> str:
    """plotly reads a few HTML tags in hover texts."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _xyz(point: Vectors) -> dict[str, float]:
    return dict(zip("xyz", (round(float(value), 5) for value in point), strict=True))
