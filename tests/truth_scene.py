"""A Scene that is exactly right: a synthetic clip's ground truth, moved into the first camera's frame."""

import numpy as np

from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.synthetic import make_clip


def first_camera_frame(extrinsics: np.ndarray) -> np.ndarray:
    """World-to-camera [S, 3, 4] with the first camera as the world, float64."""
    square = np.tile(np.eye(4), (len(extrinsics), 1, 1))
    square[:, :3] = extrinsics
    return (square @ np.linalg.inv(square[0]))[:, :3]


def truth_scene(clip: Clip) -> Scene:
    """Points are computed per pixel in plain loops over cameras, apart from the code under test."""
    assert clip.truth is not None
    depth = clip.truth.depth.numpy()
    cameras = first_camera_frame(clip.truth.extrinsics.double().numpy())
    lenses = clip.truth.intrinsics.double().numpy()
    points = np.zeros((*depth.shape, 3))
    rows, columns = np.indices(depth.shape[1:])
    for frame, (camera, lens) in enumerate(zip(cameras, lenses, strict=True)):
        x = (columns + 0.5 - lens[0, 2]) / lens[0, 0] * depth[frame]
        y = (rows + 0.5 - lens[1, 2]) / lens[1, 1] * depth[frame]
        seen = np.stack([x, y, depth[frame].astype(np.float64)], axis=-1) - camera[:, 3]
        points[frame] = np.where(depth[frame][..., None] > 0, seen @ camera[:, :3], 0)
    confidence = (depth > 0).astype(np.float32)
    return Scene(
        names=list(clip.names),
        images=np.round(clip.images.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8),
        extrinsics=cameras.astype(np.float32),
        intrinsics=lenses.astype(np.float32),
        depth=depth,
        depth_conf=confidence,
        points=points.astype(np.float32),
        points_conf=confidence.copy(),
        provenance={"model": "truth", "method": "float", "scheme": "float32", "source": clip.source},
    )


def small_scene(seed: int = 3, frames: int = 3, size: int | tuple[int, int] = 56) -> Scene:
    """The truth of a small synthetic clip, with graded confidences instead of all ones."""
    scene = truth_scene(make_clip(seed, frames=frames, size=size))
    grades = np.random.default_rng(seed).uniform(1, 5, scene.depth.shape).astype(np.float32)
    grades[scene.depth == 0] = 0
    scene.points_conf[...] = scene.depth_conf[...] = grades
    return scene
