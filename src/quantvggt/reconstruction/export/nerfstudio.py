"""nerfstudio/: pictures, transforms.json and sparse_pc.ply, a folder for `ns-train splatfacto --data`.

What nerfstudio's own ns-process-data writes: camera-to-world matrices with OpenGL's camera axes (x right, y up, z
backward), in a world that is turned by applied_transform, and so are the points.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from quantvggt.core.files import atomic_folder
from quantvggt.reconstruction.export.pictures import write_pictures
from quantvggt.reconstruction.export.ply import ply_bytes
from quantvggt.reconstruction.export.views import View, make_views
from quantvggt.reconstruction.geometry import TO_OPENGL, invert
from quantvggt.reconstruction.points import PointCloud
from quantvggt.reconstruction.scene import Scene

# The first camera's y points down: this makes z up, as nerfstudio's viewer has it.
APPLIED_TRANSFORM = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]])


def write_nerfstudio(
    scene: Scene, cloud: PointCloud, path: Path, size: str = "original", shared_camera: bool = False
) -> None:
    """Intrinsics per frame, or once for all with a shared camera. size, shared_camera: see `ExportOptions`."""
    views = make_views(scene, size, shared_camera)
    turn = APPLIED_TRANSFORM[:, :3]
    poses = np.tile(np.eye(4), (len(views), 1, 1))
    poses[:, :3] = turn @ invert(scene.extrinsics)
    poses[:, :3, :3] *= TO_OPENGL
    about: dict[str, Any] = {"camera_model": "PINHOLE"}
    if shared_camera:
        about |= _camera(views[0])
    about |= {"applied_transform": APPLIED_TRANSFORM.tolist(), "ply_file_path": "sparse_pc.ply"}
    about["frames"] = [
        {
            "file_path": f"images/{view.file}",
            **({} if shared_camera else _camera(view)),
            "transform_matrix": pose.tolist(),
        }
        for view, pose in zip(views, poses, strict=True)
    ]
    with atomic_folder(path) as folder:
        write_pictures(scene, views, folder / "images")
        (folder / "sparse_pc.ply").write_bytes(ply_bytes(cloud.xyz @ turn.T.astype(np.float32), cloud.rgb))
        (folder / "transforms.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _camera(view: View) -> dict[str, Any]:
    fx, fy, cx, cy = view.pinhole
    return {"w": view.width, "h": view.height, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}
