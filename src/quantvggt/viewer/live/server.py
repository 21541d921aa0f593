"""A live viewer's servers: one for each scene, and for two scenes the page that shows them side by side."""

import io
import threading
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from importlib.util import find_spec
from typing import TYPE_CHECKING

from quantvggt.core.errors import InputError
from quantvggt.core.ports import free_port, web_address
from quantvggt.reconstruction.scene import Scene
from quantvggt.viewer.live.cloud import MAX_POINTS, make_cloud
from quantvggt.viewer.live.controls import RulerPanel, add_look, first_look
from quantvggt.viewer.live.difference import Difference, compare
from quantvggt.viewer.live.link import Lead
from quantvggt.viewer.live.look import Look
from quantvggt.viewer.live.pair import serve_pair
from quantvggt.viewer.live.pane import Pane

if TYPE_CHECKING:
    import viser

PORT = 8080
"""The first that is tried."""


def viser_installed() -> bool:
    """Is the extra `view` there?"""
    return find_spec("viser") is not None


def require_viser() -> None:
    """Raises InputError unless viser is installed."""
    if not viser_installed():
        raise InputError("the live viewer needs viser; pip install 'quantvggt[view]', or write a page with --page")


class LiveViewer:
    """One scene, or two side by side with linked cameras, on this machine's ports until `stop`.

    scenes: one or two; the second is aligned to the first where both are of the same frames, and if asked coloured by
    its points' distance from it. titles: one for each. host: the address to listen on; port: the first that is
    tried, later ones follow. max_points: of each scene.

    address: what to open in a browser. points: how many each scene has. difference: between the scenes, or None; then
    `incomparable` says why. ruler: what is measured in the first scene.
    Raises InputError if viser isn't installed, a scene has no points, or the address can't be listened on.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        titles: Sequence[str],
        host: str = "127.0.0.1",
        port: int = PORT,
        max_points: int = MAX_POINTS,
    ) -> None:
        require_viser()
        if not 1 <= len(scenes) <= 2:
            raise InputError(f"{len(scenes)} scenes to view; give one, or two to see them side by side")
        self.difference: Difference | None = None
        self.incomparable = ""
        self._lock, self._lead, self._stack = threading.Lock(), Lead(), ExitStack()
        scenes = list(scenes)
        if len(scenes) == 2:
            try:
                self.difference = compare(*scenes)
                scenes[1] = scenes[1].transformed(*self.difference.alignment)
            except InputError as error:
                self.incomparable = str(error)
        clouds = [make_cloud(scene, max_points) for scene in scenes]
        self.points = [len(cloud) for cloud in clouds]
        # Two scenes have a page of their own, at the address that is told; it comes first.
        page_port = free_port(host, port) if len(scenes) == 2 else None
        next_port = port if page_port is None else page_port + 1
        self.panes: list[Pane] = []
        for index, (scene, cloud, title) in enumerate(zip(scenes, clouds, titles, strict=True)):
            server = self._serve(host, free_port(host, next_port), title)
            next_port = server.get_port() + 1
            heat = None
            if index == 1 and self.difference is not None:
                heat = self.difference.colours(cloud.per_pixel(self.difference.distance))
            self.panes.append(Pane(server, scene, cloud, heat))
        self._look = self._drawn = first_look(len(scenes[0].names))
        self._fill_panels()
        for pane in self.panes:
            pane.draw(self._look)
        if page_port is None:
            self.address = web_address(host, self.panes[0].server.get_port())
        else:
            ports = [pane.server.get_port() for pane in self.panes]
            self._stack.enter_context(serve_pair(host, page_port, titles, ports))
            self.address = web_address(host, page_port)

    def look(self, look: Look) -> None:
        """Show the scenes so; of looks that come faster than they can be sent only the newest is."""
        self._look = look
        with self._lock:
            if self._look is not self._drawn:
                self._drawn = self._look
                for pane in self.panes:
                    pane.draw(self._drawn)

    def stop(self) -> None:
        """Close all windows' connections and free the ports."""
        with redirect_stdout(io.StringIO()):
            self._stack.close()

    def _serve(self, host: str, port: int, title: str) -> "viser.ViserServer":
        import viser

        with redirect_stdout(io.StringIO()):  # it prints an address that isn't the one to open
            server = viser.ViserServer(host, port, verbose=False)
        self._stack.callback(server.stop)
        # A window may ask for the scene to be shown to everybody, through viser's own server elsewhere. It isn't.
        server.request_share_url = lambda verbose=True: None  # type: ignore[method-assign]
        server.gui.configure_theme(show_share_button=False, show_logo=False)
        server.gui.set_panel_label(title)
        return server

    def _fill_panels(self) -> None:
        first = self.panes[0]
        add_look(first.server.gui, len(first.scene.names), self.difference, self.look)
        self.ruler = RulerPanel(first)
        for pane in self.panes[1:]:
            pane.server.gui.main_panel.minimize()
            pane.server.gui.add_markdown("The panel of the first scene is for both.")
        if len(self.panes) == 2:
            first.server.gui.main_panel.dock_left()  # beside the scene, not upon it
            for pane in self.panes:
                pane.server.on_client_connect(self._link)

    def _link(self, client: "viser.ClientHandle") -> None:
        """Every other window follows this one's camera while it leads."""

        @client.camera.on_update
        async def follow(camera: "viser.CameraHandle") -> None:
            if not self._lead.takes(id(client)):
                return
            for other in (other for pane in self.panes for other in pane.server.get_clients().values()):
                if other is not client:
                    with other.atomic():
                        other.camera.up_direction = camera.up_direction
                        other.camera.position = camera.position
                        other.camera.look_at = camera.look_at
