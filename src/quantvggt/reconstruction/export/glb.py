"""scene.glb: coloured points, or a mesh per frame, and the cameras' pyramids, right side up in any glTF viewer.

Format: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html.
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray

from quantvggt.core.files import atomic_file
from quantvggt.reconstruction.depth import EDGE, depth_edges
from quantvggt.reconstruction.geometry import frustum
from quantvggt.reconstruction.points import MIN_CONFIDENCE, PointCloud, select_points
from quantvggt.reconstruction.scene import Scene
from quantvggt.reconstruction.style import camera_colours, frustum_length

# glTF looks along -z with y up, OpenCV along +z with y down.
TO_GLTF = np.array([1, -1, -1], np.float32)
EDGES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1))
POINTS, TRIANGLES = 0, 4
FLOAT, UNSIGNED_INT = 5126, 5125
VERTICES, INDICES = 34962, 34963


def write_glb(
    scene: Scene,
    cloud: PointCloud,
    path: Path,
    mesh: bool = False,
    min_confidence: float = MIN_CONFIDENCE,
    clean: bool = True,
) -> None:
    """The points as one primitive, or with `mesh` each frame's surfaces; each camera as a thin wire pyramid.

    min_confidence, clean: which pixels meshes have, as for points; pixels are joined with their neighbours unless a
    depth edge lies between. Camera colours follow the order of frames.
    """
    file = _Glb()
    if mesh:
        for index, (pixels, faces) in enumerate(_meshes(scene, min_confidence, clean)):
            place = (index, *pixels)
            file.add(f"frame_{index:04d}", scene.points[place], scene.images[place], faces)
    else:
        file.add("points", cloud.xyz, cloud.rgb)
    height, width = scene.size
    length = frustum_length(scene)
    for index, colour in enumerate(camera_colours(len(scene.names))):
        corners = frustum(scene.extrinsics[index], scene.intrinsics[index], width, height, length)
        vertices, faces = _wires(corners, 0.015 * length)
        file.add(f"camera_{index:04d}", vertices, np.tile(np.array(colour, np.uint8), (len(vertices), 1)), faces)
    with atomic_file(path) as temporary, open(temporary, "wb") as stream:
        stream.writelines(file.parts())


def linear(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """sRGB values -> the linear light, 0 to 1, that glTF's vertex colours are (IEC 61966-2-1)."""
    value = np.arange(256) / 255
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)[rgb]


class _Glb:
    """A binary glTF file that grows by one named mesh at a time, each in a node of its own."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.size = 0
        self.gltf: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "quantvggt"},
            "scene": 0,
            "scenes": [{"nodes": []}],
            "nodes": [],
            "meshes": [],
            "accessors": [],
            "bufferViews": [],
        }

    def add(
        self,
        name: str,
        xyz: NDArray[Any],
        rgb: NDArray[np.uint8],
        faces: NDArray[np.int64] | None = None,
    ) -> None:
        """World points [N, 3] (OpenCV axes) with sRGB colours; faces [F, 3]: triangles of them, else points.

        What has no vertices or no faces is left out: glTF has no empty accessors.
        """
        if not len(xyz) or (faces is not None and not len(faces)):
            return
        placed = xyz.astype(np.float32) * TO_GLTF
        position = self._accessor(placed, FLOAT, "VEC3", VERTICES)
        self.gltf["accessors"][position] |= {"min": placed.min(0).tolist(), "max": placed.max(0).tolist()}
        attributes = {"POSITION": position, "COLOR_0": self._accessor(linear(rgb), FLOAT, "VEC3", VERTICES)}
        primitive: dict[str, Any] = {"attributes": attributes, "mode": POINTS if faces is None else TRIANGLES}
        if faces is not None:
            primitive["indices"] = self._accessor(faces.astype(np.uint32).ravel(), UNSIGNED_INT, "SCALAR", INDICES)
        self.gltf["meshes"].append({"name": name, "primitives": [primitive]})
        number = len(self.gltf["nodes"])
        self.gltf["nodes"].append({"name": name, "mesh": number})
        self.gltf["scenes"][0]["nodes"].append(number)

    def parts(self) -> list[bytes]:
        """The file's bytes, in pieces."""
        self.gltf["buffers"] = [{"byteLength": self.size}]
        text = json.dumps(self.gltf, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        total = 12 + 8 + len(text) + 8 + self.size
        head = struct.pack("<4sII", b"glTF", 2, total) + struct.pack("<I4s", len(text), b"JSON")
        return [head, text, struct.pack("<I4s", self.size, b"BIN\0"), *self.chunks]

    def _accessor(self, values: NDArray[Any], component: int, kind: str, target: int) -> int:
        data = values.tobytes()
        view = {"buffer": 0, "byteOffset": self.size, "byteLength": len(data), "target": target}
        self.gltf["bufferViews"].append(view)
        self.chunks.append(data)
        self.size += len(data)  # all components have 4 bytes, so everything stays aligned
        number = len(self.gltf["accessors"])
        self.gltf["accessors"].append(
            {"bufferView": number, "componentType": component, "count": len(values), "type": kind}
        )
        return number


def _meshes(
    scene: Scene, min_confidence: float, clean: bool
) -> list[tuple[tuple[NDArray[np.intp], NDArray[np.intp]], NDArray[np.int64]]]:
    """Per frame the pixels (rows, columns) that are vertices, and triangles of them that face the camera."""
    chosen = select_points(scene, min_confidence)
    shown = np.zeros(scene.depth.shape, bool)
    shown[chosen.frame, chosen.row, chosen.column] = True
    if clean:
        shown &= ~depth_edges(scene.depth)
    found = []
    for visible, depth in zip(shown, scene.depth, strict=True):
        number = np.cumsum(visible).reshape(visible.shape) - 1
        corners = [(slice(a, a - 1 or None), slice(b, b - 1 or None)) for a in (0, 1) for b in (0, 1)]
        top_left, top_right, bottom_left, bottom_right = corners
        faces = []
        for triangle in ((top_left, bottom_left, top_right), (top_right, bottom_left, bottom_right)):
            depths = np.stack([depth[corner] for corner in triangle])
            whole = np.all([visible[corner] for corner in triangle], axis=0)
            whole &= np.ptp(depths, axis=0) <= EDGE * depths.min(0)
            faces.append(np.stack([number[corner][whole] for corner in triangle], axis=-1))
        rows, columns = np.nonzero(visible)
        found.append(((rows, columns), np.concatenate(faces)))
    return found


def _wires(corners: NDArray[np.float64], radius: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices and faces of a pyramid's edges."""
    # Viewers draw glTF lines one pixel wide or not at all: thin tubes are seen everywhere.
    tubes = [trimesh.creation.cylinder(radius, segment=corners[list(edge)], sections=6) for edge in EDGES]
    offsets = np.cumsum([0] + [len(tube.vertices) for tube in tubes[:-1]])
    faces = np.concatenate([tube.faces + offset for tube, offset in zip(tubes, offsets, strict=True)])
    return np.concatenate([tube.vertices for tube in tubes]), faces
