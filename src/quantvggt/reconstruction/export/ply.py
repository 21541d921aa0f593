"""points.ply: the coloured point cloud, binary, in the scene's own world (OpenCV axes)."""

from pathlib import Path

import trimesh

from quantvggt.core.files import atomic_file
from quantvggt.reconstruction.points import PointCloud
from quantvggt.reconstruction.scene import Scene


def write_ply(scene: Scene, cloud: PointCloud, path: Path) -> None:
    """x, y, z in float32 and red, green, blue in uint8, readable by every mesh viewer."""
    with atomic_file(path) as temporary:
        trimesh.PointCloud(cloud.xyz, colors=cloud.rgb).export(temporary, file_type="ply")
