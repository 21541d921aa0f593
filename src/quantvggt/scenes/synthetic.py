"""Procedural multi-view scenes with exact ground truth.

A scene is a ground disc with 4 to 10 textured boxes, spheres and cylinders, seen by a jittered orbit of one
square-pixel camera, as in a short video around a table. World frame: z up, metres. The ground's colour field,
the sun and the sky's tint are fixed in the world, the same in every scene, so a small network can learn to
localise a view.

Everything about a scene follows from its seed alone. Seeds from `HELD_OUT_SEED` on are never trained on.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip, GroundTruth
from quantvggt.scenes.raycast import Ground, Solid, render

HELD_OUT_SEED = 9_000_000
"""First of the seeds kept for evaluation; vggt-nano has seen none of them in training."""

_KINDS = ("box", "sphere", "cylinder")
_TEXTURES = ("checker", "stripes", "noise", "plain")


def make_clip(seed: int, frames: int = 8, size: int | tuple[int, int] = 112) -> Clip:
    """Render the scene of a seed.

    Args:
        seed: any non-negative integer; the same seed, frames and size give the same bytes.
        frames: number of views, at least 1.
        size: side of a square frame, or (height, width); multiples of 14.

    Returns:
        Clip of float32 images [frames, 3, height, width] in [0, 1] with its truth: world-to-camera
        extrinsics [frames, 3, 4] (OpenCV, metres), intrinsics [frames, 3, 3] (pixels) and z-depth
        [frames, height, width] (metres, 0 in the sky).

    Raises:
        InputError: a negative seed, no frames, or a size that is not a positive multiple of 14.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if seed < 0:
        raise InputError(f"seed {seed}: a synthetic scene needs a seed of 0 or more")
    if frames < 1:
        raise InputError(f"frames {frames}: a synthetic clip needs at least 1 frame")
    for name, side in (("height", height), ("width", width)):
        if side < 14 or side % 14:
            raise InputError(f"{name} {side}: a synthetic clip needs a multiple of 14, such as 112")

    rng = np.random.default_rng(seed)
    solids, ground = _sample_scene(rng)
    extrinsics, intrinsics = _sample_cameras(rng, frames, height, width)
    source = {"kind": "synthetic", "seed": seed, "frames": frames, "height": height, "width": width}
    return _rendered(solids, ground, extrinsics, intrinsics, source)


def make_path(seed: int, frames: int, turns: float = 1.0, size: int = 112) -> Clip:
    """The scene of a seed, seen by a camera that goes around it `turns` times, as a long video shows it.

    Distance and height swing as it goes, a whole number of times a turn: after one turn it is where it began. The rest
    is as in `make_clip`.
    """
    rng = np.random.default_rng(seed)
    solids, ground = _sample_scene(rng)
    extrinsics = np.zeros((frames, 3, 4))
    for index, angle in enumerate(2 * math.pi * turns * np.arange(frames) / frames):
        elevation, radius = math.radians(31 + 9 * math.sin(5 * angle)), 4.6 + 0.6 * math.sin(7 * angle)
        flat = math.cos(elevation)
        eye = radius * np.array([flat * math.cos(angle), flat * math.sin(angle), math.sin(elevation)])
        target = np.array([0.3 * math.cos(3 * angle), 0.3 * math.sin(4 * angle), 0.4])
        rotation = _look(eye, target, roll=0.0)
        extrinsics[index] = np.column_stack([rotation, -rotation @ eye])
    intrinsics = _intrinsics(math.radians(60), size, size)
    source = {"kind": "path", "seed": seed, "frames": frames, "turns": turns, "height": size, "width": size}
    return _rendered(solids, ground, extrinsics, intrinsics, source)


def _rendered(
    solids: list[Solid],
    ground: Ground,
    extrinsics: NDArray[np.float64],
    intrinsics: NDArray[np.float64],
    source: dict[str, Any],
) -> Clip:
    frames, height, width = len(extrinsics), source["height"], source["width"]
    views = [render(solids, ground, e, intrinsics, height, width) for e in extrinsics]
    images = torch.from_numpy(np.stack([image for image, _ in views])).permute(0, 3, 1, 2).float().div_(255)
    truth = GroundTruth(
        extrinsics=torch.from_numpy(extrinsics.astype(np.float32)),
        intrinsics=torch.from_numpy(intrinsics.astype(np.float32)).expand(frames, 3, 3).clone(),
        depth=torch.from_numpy(np.stack([depth for _, depth in views])),
    )
    names = [f"{source['kind']}_{source['seed']}_{index:03d}" for index in range(frames)]
    return Clip(images=images.contiguous(), names=names, source=source, truth=truth)


def make_clips(seeds: Iterable[int], frames: int = 8, size: int | tuple[int, int] = 112) -> list[Clip]:
    """`make_clip` for each seed, in their order."""
    return [make_clip(seed, frames, size) for seed in seeds]


def count_solids(seed: int) -> int:
    """How many solids stand on the ground of a seed's scene, 4 to 10."""
    return len(_sample_scene(np.random.default_rng(seed))[0])


def _sample_scene(rng: np.random.Generator) -> tuple[list[Solid], Ground]:
    """4 to 10 solids within 2.9 m of the origin, mostly apart from each other, and a ground."""
    solids: list[Solid] = []
    placed: list[tuple[float, float, float]] = []
    for _ in range(int(rng.integers(4, 11))):
        kind = _KINDS[int(rng.integers(0, 3))]
        for _ in range(20):
            distance, bearing = 2.9 * math.sqrt(rng.random()), rng.random() * 2 * math.pi
            x, y = distance * math.cos(bearing), distance * math.sin(bearing)
            size = rng.uniform(0.25, 0.62)
            if all((x - px) ** 2 + (y - py) ** 2 > (0.8 * (size + other)) ** 2 for px, py, other in placed):
                break
        placed.append((x, y, size))
        if kind == "box":
            half = (size * rng.uniform(0.6, 1.0), size * rng.uniform(0.6, 1.0), rng.uniform(0.2, 0.9))
        elif kind == "sphere":
            half = (size, size, size)
        else:
            half = (size * 0.8, size * 0.8, rng.uniform(0.25, 0.9))
        yaw = rng.random() * 2 * math.pi
        colour = rng.random(3)
        other_colour = np.clip(colour + rng.choice([-1, 1], 3) * rng.uniform(0.25, 0.6, 3), 0, 1)
        solids.append(
            Solid(
                kind=kind,
                centre=(x, y, half[2]),
                half=half,
                yaw=yaw,
                colours=(colour, other_colour),
                texture=_TEXTURES[int(rng.choice(4, p=[0.3, 0.3, 0.25, 0.15]))],
                frequency=rng.uniform(1.6, 4.0),
                noise_seed=int(rng.integers(0, 100_000)),
                upright_stripes=bool(rng.integers(0, 2)),
            )
        )
    ground = Ground(
        cell=rng.uniform(0.6, 1.1),
        contrast=rng.uniform(0.12, 0.35),
        noise_seed=int(rng.integers(0, 100_000)),
        phase=(rng.random() * 2, rng.random() * 2),
    )
    return solids, ground


def _sample_cameras(
    rng: np.random.Generator, frames: int, height: int, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Views from an arc of 40 to 360 degrees, shuffled: extrinsics [frames, 3, 4], intrinsics [3, 3]."""
    span, start = math.radians(rng.uniform(40, 360)), rng.random() * 2 * math.pi
    azimuths = rng.permutation(start + span * (np.arange(frames) + rng.random(frames)) / frames)
    field_of_view = math.radians(rng.uniform(45, 70))  # across the longer side
    mean_radius, mean_elevation = rng.uniform(3.8, 5.2), math.radians(rng.uniform(20, 42))
    extrinsics = np.zeros((frames, 3, 4))
    for index, azimuth in enumerate(azimuths):
        radius = mean_radius * rng.uniform(0.85, 1.18)
        elevation = mean_elevation + math.radians(rng.uniform(-8, 8))
        flat = math.cos(elevation)
        eye = radius * np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)])
        target = np.array([0, 0, 0.4]) + rng.uniform(-0.45, 0.45, 3)
        rotation = _look(eye, target, roll=math.radians(rng.normal() * 3))
        extrinsics[index] = np.column_stack([rotation, -rotation @ eye])
    return extrinsics, _intrinsics(field_of_view, height, width)


def _intrinsics(field_of_view: float, height: int, width: int) -> NDArray[np.float64]:
    """field_of_view: across the longer side."""
    focal = max(height, width) / 2 / math.tan(field_of_view / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])


def _look(eye: NDArray[np.float64], target: NDArray[np.float64], roll: float) -> NDArray[np.float64]:
    """World-to-camera rotation of a camera at `eye` that looks at `target`, rolled about its axis."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cos, sin = math.cos(roll), math.sin(roll)
    return np.stack([cos * right + sin * down, cos * down - sin * right, forward])
