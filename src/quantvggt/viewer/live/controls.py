"""The panel beside the scene: confidence, frames, size of points, cameras, difference, and the ruler."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.export.npz import dump_npz
from quantvggt.reconstruction.points import MIN_CONFIDENCE
from quantvggt.viewer.live.difference import Difference
from quantvggt.viewer.live.look import Look
from quantvggt.viewer.live.measure import Ruler, pick
from quantvggt.viewer.live.pane import Pane

if TYPE_CHECKING:
    import viser

MARK = (255, 64, 160)


def first_look(frames: int) -> Look:
    """All frames, and the points that exports have too."""
    return Look(int(MIN_CONFIDENCE), 0, frames - 1)


def add_look(gui: "viser.GuiApi", frames: int, difference: Difference | None, changed: Callable[[Look], None]) -> None:
    """What decides how scenes look; `changed` is told of every new look."""
    start = first_look(frames)
    percentile = gui.add_slider(
        "Confidence", 0, 100, 1, start.percentile, hint="Hide this share of the points, the least sure, in percent"
    )
    last = max(start.last, 1)  # a slider needs two ends
    range_ = gui.add_multi_slider("Frames", 0, last, 1, (0, last), visible=frames > 1)
    size = gui.add_slider("Point size", 0.25, 8.0, 0.25, start.size, hint="In widths of a pixel on the surfaces")
    cameras = gui.add_checkbox("Cameras", start.cameras, hint="Click on one to look through it")
    heat = gui.add_checkbox("Difference", start.heat, visible=difference is not None, hint="Of the second scene")
    legend = gui.add_html(legend_html(difference) if difference else "", visible=False)

    def tell(_: object) -> None:
        first, final = range_.value
        look = Look(percentile.value, first, min(final, frames - 1), size.value, cameras.value, heat.value)
        legend.visible = look.heat
        changed(look)

    for part in (percentile, range_, size, cameras, heat):
        part.on_update(tell)


def legend_html(difference: Difference) -> str:
    """The colours of a difference, from 0 to its top, and its median."""
    stops = difference.colours(np.linspace(0, difference.top, 9).astype(np.float32))
    colours = ", ".join(f"rgb({red}, {green}, {blue})" for red, green, blue in stops.tolist())
    return (
        f'<div style="padding: 0 0.8em 0.4em; font-size: 12px">'
        f'<div style="height: 12px; border-radius: 3px; background: linear-gradient(to right, {colours})"></div>'
        f'<div style="display: flex; justify-content: space-between">'
        f"<span>0</span><span>{difference.top:.4g}</span></div>"
        f"Distance over the mean viewing distance; median {difference.median:.2g}. Grey: one scene has no point.</div>"
    )


class RulerPanel:
    """Two points picked with the mouse, one known length, and the scene in that length's unit to download.

    scale: what lengths are to be multiplied by, None before a known length was set. Nothing is written on this machine.
    """

    def __init__(self, pane: Pane) -> None:
        self.pane, self.ruler = pane, Ruler()
        self.scale: float | None = None
        gui = pane.server.gui
        with gui.add_folder("Measure"):
            self._measuring = gui.add_checkbox("Pick points", False, hint="Then click on two points of the first scene")
            self._said = gui.add_markdown("Pick two points to measure between them.")
            self._known = gui.add_number("Known length", 1.0, min=0.0, step=0.001)
            self._set = gui.add_button("Set scale", disabled=True)
            self._save = gui.add_button("Download scaled scene", disabled=True, hint="scene.npz, in your unit")
        self._measuring.on_update(lambda _: self._listen())
        self._set.on_click(lambda _: self._rescale())
        self._save.on_click(lambda event: self._download(event.client))

    def _listen(self) -> None:
        scene = self.pane.server.scene
        if self._measuring.value:
            scene.on_click()(self._picked)
        else:
            scene.remove_click_callback()
            self.ruler.clear()
            self._draw()

    def _picked(self, event: "viser.SceneClickEvent") -> None:
        shown = self.pane.shown
        chosen = pick(shown, event.ray_origin, event.ray_direction)
        if chosen is None:
            self._said.content = "There is no point just there."
            return
        self.ruler.add(shown[chosen])
        self._draw()

    def _draw(self) -> None:
        """Marks at the points, a line between them, and its length in words."""
        length, points = self.ruler.length, self.ruler.points
        server = self.pane.server
        with server.atomic():
            for index in range(2):
                server.scene.add_icosphere(
                    f"/measure/{index}",
                    radius=self.pane.mark,
                    color=MARK,
                    position=points[index] if index < len(points) else np.zeros(3),
                    visible=index < len(points),
                )
            ends = np.array([points if length is not None else np.zeros((2, 3))], np.float32)
            server.scene.add_line_segments(
                "/measure/line", ends, MARK, thickness=3.0, thickness_units="screen", visible=length is not None
            )
        self._set.disabled = not length
        if length is None:
            self._said.content = "Click on the other point." if points else "Pick two points to measure between them."
        else:
            self._said.content = f"**{length * (self.scale or 1):.4g}** ({length:.4g} in the scene's unit)"

    def _rescale(self) -> None:
        try:
            self.scale = self.ruler.scale(float(self._known.value))
        except InputError as error:
            self._said.content = str(error)
            return
        self._save.disabled = False
        self._draw()

    def _download(self, client: "viser.ClientHandle | None") -> None:
        if client is not None and self.scale is not None:
            stream = io.BytesIO()
            dump_npz(self.pane.scene.transformed(self.scale), stream)
            client.send_file_download("scene.npz", stream.getvalue(), save_immediately=True)
