"""scene.glb: coloured points and the cameras' pyramids, right side up in any glTF viewer."""

from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray

from quantvggt.core.files import atomic_file
from quantvggt.reconstruction.geometry import frustum
from quantvggt.reconstruction.points import PointCloud
from quantvggt.reconstruction.scene import Scene
from quantvggt.reconstruction.style import camera_colours, frustum_length

# glTF looks along -z with y up, OpenCV along +z with y down.
TO_GLTF = np.diag([1.0, -1.0, -1.0, 1.0])
EDGES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1))


def write_glb(scene: Scene, cloud: PointCloud, path: Path) -> None:
    """The points as one glTF primitive; each camera as a thin wire pyramid, coloured in order of frames."""
    gltf = trimesh.Scene()
    gltf.add_geometry(trimesh.PointCloud(cloud.xyz, colors=cloud.rgb), geom_name="points")
    height, width = scene.size
    length = frustum_length(scene)
    for index, colour in enumerate(camera_colours(len(scene.names))):
        corners = frustum(scene.extrinsics[index], scene.intrinsics[index], width, height, length)
        wires = _wires(corners, 0.015 * length, colour)
        gltf.add_geometry(wires, geom_name=f"camera_{index:04d}", node_name=f"camera_{index:04d}")
    gltf.apply_transform(TO_GLTF)
    with atomic_file(path) as temporary:
        temporary.write_bytes(gltf.export(file_type="glb"))


def _wires(corners: NDArray[np.float64], radius: float, colour: tuple[int, int, int]) -> trimesh.Trimesh:
    # Viewers draw glTF lines one pixel wide or not at all: thin tubes are seen everywhere.
    tubes = [trimesh.creation.cylinder(radius, segment=corners[list(edge)], sections=6) for edge in EDGES]
    vertices = np.concatenate([tube.vertices for tube in tubes])
    offsets = np.cumsum([0] + [len(tube.vertices) for tube in tubes[:-1]])
    faces = np.concatenate([tube.faces + offset for tube, offset in zip(tubes, offsets, strict=True)])
    return trimesh.Trimesh(vertices, faces, vertex_colors=(*colour, 255), process=False)
