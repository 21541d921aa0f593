"""points.ply: the coloured point cloud, binary, in the scene's own world (OpenCV axes)."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.files import atomic_file
from quantvggt.reconstruction.points import PointCloud
from quantvggt.reconstruction.scene import Scene


def write_ply(scene: Scene, cloud: PointCloud, path: Path) -> None:
    """x, y, z in float32 and red, green, blue in uint8, readable by every mesh viewer."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(ply_bytes(cloud.xyz, cloud.rgb))


def ply_bytes(xyz: NDArray[np.float32], rgb: NDArray[np.uint8]) -> bytes:
    """A binary PLY file of points [N, 3] with colours [N, 3]."""
    axes = "".join(f"property float {axis}\n" for axis in "xyz")
    colours = "".join(f"property uchar {colour}\n" for colour in ("red", "green", "blue"))
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(xyz)}\n{axes}{colours}end_header\n"
    rows = np.empty(len(xyz), [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    rows["xyz"], rows["rgb"] = xyz, rgb
    return head.encode() + rows.tobytes()
