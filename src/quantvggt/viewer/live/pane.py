"""One scene in one browser window: its points and its cameras, drawn through a viser server."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quantvggt.reconstruction.fuse import pixel_footprint
from quantvggt.reconstruction.geometry import camera_centres, invert, quaternions, upright_axes
from quantvggt.reconstruction.scene import Scene
from quantvggt.reconstruction.style import camera_colours, frustum_length
from quantvggt.viewer.live.cloud import Cloud
from quantvggt.viewer.live.look import Look
from quantvggt.viewer.overview import overview

if TYPE_CHECKING:
    import viser

LARGEST_PHOTO = 256
"""Pixels of a photo's longer side on its camera."""


class Pane:
    """heat: RGB [N, 3], the colours of the cloud's points when a `Look` asks for heat; None: there are none."""

    def __init__(
        self, server: "viser.ViserServer", scene: Scene, cloud: Cloud, heat: NDArray[np.uint8] | None = None
    ) -> None:
        self.server, self.scene, self.cloud, self.heat = server, scene, cloud, heat
        self._pixel = pixel_footprint(scene, cloud.points)
        self._length = frustum_length(scene)
        self._drawn: Look | None = None
        self._shown = np.zeros(len(cloud), bool)
        self._up = upright_axes(scene.extrinsics)[2]
        self._stage()
        nothing = np.empty((0, 3), np.float32)
        self._points = server.scene.add_point_cloud(
            "/points",
            nothing,
            np.empty((0, 3), np.uint8),
            precision="float32",
            point_shading="flat",
            point_shape="circle",
        )
        self._cameras = [self._camera(frame) for frame in range(len(scene.names))]

    @property
    def shown(self) -> NDArray[np.float32]:
        """Where the points are that are on the screen now [M, 3]."""
        return self.cloud.points.xyz[self._shown]

    @property
    def mark(self) -> float:
        """Radius of a mark that is seen at a point without hiding it, in the scene's unit."""
        return 0.04 * self._length

    def draw(self, look: Look) -> None:
        """Send the browser what has changed since the last look."""
        old, self._drawn = self._drawn, look
        with self.server.atomic():
            self._points.point_size = self._pixel * look.size
            for frame, camera in enumerate(self._cameras):
                camera.visible = look.cameras and look.first <= frame <= look.last
            if old is None or _choice(old) != _choice(look):
                self._shown = self.cloud.shown(look.percentile, look.first, look.last)
                colours = self.heat if look.heat and self.heat is not None else self.cloud.points.rgb
                self._points.points = self.shown
                self._points.colors = colours[self._shown]

    def _stage(self) -> None:
        eye, target = overview(self.scene, self.cloud.points.xyz)
        camera, distance = self.server.initial_camera, float(np.linalg.norm(eye - target))
        camera.position, camera.look_at, camera.up, camera.fov = eye, target, self._up, np.pi / 3
        camera.near, camera.far = distance / 1000, distance * 1000
        self.server.scene.set_up_direction(self._up)

    def _camera(self, frame: int) -> "viser.CameraFrustumHandle":
        """The frame's pyramid with its photo; a click looks through it."""
        (height, width), lens = self.scene.size, self.scene.intrinsics[frame].astype(np.float64)
        slopes = width / 2 / lens[0, 0], height / 2 / lens[1, 1]
        pose = invert(self.scene.extrinsics[frame : frame + 1])
        step = -(-max(height, width) // LARGEST_PHOTO)
        handle = self.server.scene.add_camera_frustum(
            f"/cameras/{frame}",
            fov=2 * float(np.arctan(slopes[1])),
            aspect=slopes[0] / slopes[1],
            # viser keeps the volume of a pyramid, whatever its angle; this makes it `_length` deep.
            scale=self._length * float(np.cbrt(slopes[0] * slopes[1] / 3)),
            thickness=2.0,
            thickness_units="screen",
            color=camera_colours(len(self.scene.names))[frame],
            image=self.scene.images[frame, ::step, ::step],
            wxyz=np.roll(quaternions(pose)[0], 1),
            position=pose[0, :, 3],
            cast_shadow=False,
            receive_shadow=False,
        )

        @handle.on_click
        def look_through(event: "viser.SceneNodePointerEvent[viser.CameraFrustumHandle]") -> None:
            self.look_through(event.client, frame)

        return handle

    def look_through(self, client: "viser.ClientHandle", frame: int) -> None:
        """Put the window's camera where the frame's camera stands."""
        depth = self.scene.depth[frame]
        distance = float(np.median(depth[depth > 0])) if (depth > 0).any() else 10 * self._length
        centre = camera_centres(self.scene.extrinsics[frame : frame + 1])[0]
        forward = self.scene.extrinsics[frame, 2, :3].astype(np.float64)
        with client.atomic():
            client.camera.up_direction = self._up
            client.camera.position = centre
            client.camera.look_at = centre + distance * forward


def _choice(look: Look) -> tuple[int, int, int, bool]:
    """What decides which points are sent, and in which colours."""
    return look.percentile, look.first, look.last, look.heat
