"""A small ray caster: boxes, spheres and upright cylinders on a ground disc, exact z-depth, Lambert shading.

World frame: z up, metres. Cameras: OpenCV (x right, y down, z forward). Rays are scaled so that their camera
z is 1, which makes the ray parameter of a hit its z-depth. Everything is vectorised over the pixels of one
frame in float32.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Axes = tuple[Floats, Floats, Floats]  # x, y and z of many points or directions

GROUND_RADIUS = 6.0
SUN = np.array([0.55, 0.35, 0.76]) / np.linalg.norm([0.55, 0.35, 0.76])

_NEAREST = 1e-3  # hits closer than this (metres of z-depth) are behind the lens
_INSIDE = 1e-3  # textures are read this far below the surface, so a face never flickers between two cells
_HASH = (374761393, 668265263, 1274126177)
_HASH_SEED = 974634777


@dataclass(frozen=True)
class Solid:
    """One textured primitive standing in the world.

    Attributes:
        kind: "box" (turned about z by `yaw`), "sphere" or upright "cylinder" (both of radius `half[0]`).
        centre: its centre, metres.
        half: half its size along its own x, y and z, metres.
        yaw: rotation about z, radians; it also turns the texture.
        colours: the two RGB colours the texture mixes, in [0, 1].
        texture: "checker", "stripes", "noise" or "plain" (the first colour only).
        frequency: texture cells per metre.
        noise_seed: seed of the "noise" texture.
        upright_stripes: "stripes" run around the solid (along z) if False, up and down if True.
    """

    kind: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    yaw: float
    colours: tuple[NDArray[np.float64], NDArray[np.float64]]
    texture: str
    frequency: float
    noise_seed: int
    upright_stripes: bool


@dataclass(frozen=True)
class Ground:
    """The ground disc: a fixed colour field times a checker (`cell` and `phase` in metres) and noise."""

    cell: float
    contrast: float
    noise_seed: int
    phase: tuple[float, float]


def render(
    solids: Sequence[Solid],
    ground: Ground,
    extrinsics: NDArray[np.float64],
    intrinsics: NDArray[np.float64],
    height: int,
    width: int,
) -> tuple[NDArray[np.uint8], Floats]:
    """Render one frame.

    Args:
        solids: the primitives; the eye is outside all of them.
        ground: the ground disc at z = 0.
        extrinsics: world-to-camera [3, 4].
        intrinsics: [3, 3] in pixels, pixel centres at +0.5.
        height, width: size of the frame.

    Returns:
        RGB uint8 [height, width, 3] and z-depth float32 [height, width] in metres, 0 for the sky.
    """
    rotation, translation = extrinsics[:, :3], extrinsics[:, 3]
    eye = -rotation.T @ translation
    ray = _rays(rotation, intrinsics, height, width)

    depth, normal, owner = _hit_ground(eye, ray)
    for index, solid in enumerate(solids):
        window = _window(solid, extrinsics, intrinsics, height, width)
        if window is None:
            continue
        part: Axes = (ray[0][window], ray[1][window], ray[2][window])
        local = tuple(float(e - c) for e, c in zip(eye, solid.centre, strict=True))
        found, found_normal = _HIT[solid.kind](solid, local, part)
        nearer = (found > _NEAREST) & (found < depth[window])
        depth[window][nearer] = found[nearer]
        owner[window][nearer] = index
        for axis, component in zip(normal, found_normal, strict=True):
            axis[window][nearer] = component[nearer] if isinstance(component, np.ndarray) else component

    image = np.empty((height, width, 3), np.float32)
    sky = owner == _SKY
    image[sky] = _sky_colour(tuple(axis[sky] for axis in ray))
    for index in np.unique(owner[~sky]):
        mine = owner == index
        point = tuple(np.float32(e) + depth[mine] * axis[mine] for e, axis in zip(eye, ray, strict=True))
        facing = tuple(axis[mine] for axis in normal)
        on_ground = index == _GROUND
        colour = _ground_colour(ground, point) if on_ground else _solid_colour(solids[index], point, facing)
        image[mine] = colour * _shade(facing)[:, None]
    depth[sky] = 0.0
    return (np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8), depth


# ---------------------------------------------------------------------------------------------- geometry

_SKY, _GROUND = -2, -1


def _rays(rotation: NDArray[np.float64], intrinsics: NDArray[np.float64], height: int, width: int) -> Axes:
    """World directions of the pixel centres, each [height, width], scaled to camera z = 1."""
    column = ((np.arange(width) + 0.5 - intrinsics[0, 2]) / intrinsics[0, 0])[None, :].astype(np.float32)
    row = ((np.arange(height) + 0.5 - intrinsics[1, 2]) / intrinsics[1, 1])[:, None].astype(np.float32)
    r = rotation.astype(np.float32)
    x, y, z = (r[0, i] * column + (r[1, i] * row + r[2, i]) for i in range(3))
    return x, y, z


def _window(
    solid: Solid, extrinsics: NDArray[np.float64], intrinsics: NDArray[np.float64], height: int, width: int
) -> tuple[slice, slice] | None:
    """Rows and columns that the solid can cover, from its bounding box. None if it is out of view."""
    reach = max(solid.half[:2]) if solid.kind != "box" else float(np.hypot(*solid.half[:2]))
    signs = np.array(list(itertools.product((-1, 1), repeat=3)))
    corners = signs * (reach, reach, solid.half[2]) + solid.centre
    seen = corners @ extrinsics[:, :3].T + extrinsics[:, 3]
    if (seen[:, 2] <= _NEAREST).all():
        return None
    if (seen[:, 2] <= _NEAREST).any():
        return slice(0, height), slice(0, width)
    pixels = seen @ intrinsics.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    left, top = np.floor(pixels.min(0) - 0.5).astype(int)
    right, bottom = np.ceil(pixels.max(0) + 0.5).astype(int)
    rows, columns = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def _hit_ground(eye: NDArray[np.float64], ray: Axes) -> tuple[Floats, list[Floats], NDArray[np.int8]]:
    """Depth (infinite off the disc), normal and owner of every pixel before any solid is drawn."""
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.float32(-eye[2]) / ray[2]
        x, y = np.float32(eye[0]) + depth * ray[0], np.float32(eye[1]) + depth * ray[1]
        on_disc = (ray[2] < -1e-6) & (x * x + y * y < GROUND_RADIUS**2)
    depth = np.where(on_disc, depth, np.float32(np.inf))
    normal = [np.zeros_like(depth), np.zeros_like(depth), np.ones_like(depth)]
    return depth, normal, np.where(on_disc, _GROUND, _SKY).astype(np.int8)


def _hit_sphere(solid: Solid, eye: Sequence[float], ray: Axes) -> tuple[Floats, tuple]:
    radius = solid.half[0]
    length2 = ray[0] * ray[0] + ray[1] * ray[1] + ray[2] * ray[2]
    closest = -(eye[0] * ray[0] + eye[1] * ray[1] + eye[2] * ray[2]) / length2
    point = [e + closest * d for e, d in zip(eye, ray, strict=True)]
    # The squared half-chord from the closest point: b^2 - ac would cancel near the outline in float32.
    chord2 = (radius * radius - (point[0] ** 2 + point[1] ** 2 + point[2] ** 2)) / length2
    with np.errstate(invalid="ignore"):
        depth = closest - np.sqrt(chord2)  # NaN where missed: compares as no hit
    return depth, tuple((e + depth * d) / radius for e, d in zip(eye, ray, strict=True))


def _hit_box(solid: Solid, eye: Sequence[float], ray: Axes) -> tuple[Floats, tuple]:
    cos, sin = float(np.cos(solid.yaw)), float(np.sin(solid.yaw))
    eye = (cos * eye[0] + sin * eye[1], cos * eye[1] - sin * eye[0], eye[2])
    ray = (cos * ray[0] + sin * ray[1], cos * ray[1] - sin * ray[0], ray[2])
    near, far = [], []
    for e, d, half in zip(eye, ray, solid.half, strict=True):
        inverse = 1.0 / np.where(np.abs(d) > 1e-9, d, np.float32(1e-9))
        middle, reach = -e * inverse, half * np.abs(inverse)
        near.append(middle - reach)
        far.append(middle + reach)
    depth = np.maximum(np.maximum(near[0], near[1]), near[2])
    hit = depth < np.minimum(np.minimum(far[0], far[1]), far[2])
    on_x = depth == near[0]
    on_y = ~on_x & (depth == near[1])
    x = np.where(on_x, -np.sign(ray[0]), 0)
    y = np.where(on_y, -np.sign(ray[1]), 0)
    z = np.where(on_x | on_y, 0, -np.sign(ray[2]))
    return np.where(hit, depth, np.float32(np.inf)), (cos * x - sin * y, sin * x + cos * y, z)


def _hit_cylinder(solid: Solid, eye: Sequence[float], ray: Axes) -> tuple[Floats, tuple]:
    radius, half_height = solid.half[0], solid.half[2]
    length2 = ray[0] * ray[0] + ray[1] * ray[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        closest = -(eye[0] * ray[0] + eye[1] * ray[1]) / length2
        x, y = eye[0] + closest * ray[0], eye[1] + closest * ray[1]
        side = closest - np.sqrt((radius * radius - (x * x + y * y)) / length2)
        on_side = np.abs(eye[2] + side * ray[2]) < half_height
        top = (half_height - eye[2]) / ray[2]
        from_axis2 = (eye[0] + top * ray[0]) ** 2 + (eye[1] + top * ray[1]) ** 2
        on_top = ~on_side & (ray[2] < 0) & (from_axis2 < radius * radius)
    depth = np.where(on_side, side, np.where(on_top, top, np.float32(np.inf)))
    with np.errstate(invalid="ignore"):
        outward = [(e + depth * d) / radius for e, d in zip(eye[:2], ray[:2], strict=True)]
    return depth, (np.where(on_top, 0, outward[0]), np.where(on_top, 0, outward[1]), np.where(on_top, 1, 0))


_HIT = {"sphere": _hit_sphere, "box": _hit_box, "cylinder": _hit_cylinder}


# ---------------------------------------------------------------------------------------------- appearance


def _shade(normal: Sequence[Floats]) -> Floats:
    lambert = normal[0] * np.float32(SUN[0]) + normal[1] * np.float32(SUN[1]) + normal[2] * np.float32(SUN[2])
    return 0.42 + 0.58 * np.maximum(lambert, 0) + 0.08 * normal[2]


def _sky_colour(ray: Sequence[Floats]) -> Floats:
    """An elevation gradient with a world-fixed tint by azimuth."""
    scale = 1.0 / np.sqrt(ray[0] * ray[0] + ray[1] * ray[1] + ray[2] * ray[2])
    x, y, z = (axis * scale for axis in ray)
    high = np.clip(0.5 + 0.8 * z, 0, 1)
    red, green = 0.80 - 0.35 * high + 0.18 * x, 0.82 - 0.20 * high + 0.18 * y
    return np.stack([red, green, 0.85 + 0.10 * high - 0.10 * (x + y)], -1)


def _ground_colour(ground: Ground, point: Sequence[Floats]) -> Floats:
    """A colour field fixed in the world, the same in every scene, under a checker and noise of this scene."""
    x, y = point[0], point[1]
    checker = _parity([(x + ground.phase[0]) / ground.cell, (y + ground.phase[1]) / ground.cell])
    dim = 1.0 - ground.contrast * checker - 0.12 * _noise([x * 2.5, y * 2.5], ground.noise_seed)
    slope = 0.42 * 1.2 / GROUND_RADIUS
    colour = np.stack([0.5 + slope * x, 0.5 + slope * y, 0.5 + 0.30 * np.sin((x - y) * 0.9)], -1)
    return colour * dim[:, None]


def _solid_colour(solid: Solid, point: Sequence[Floats], normal: Sequence[Floats]) -> Floats:
    x, y, z = (p - np.float32(c) - _INSIDE * n for p, c, n in zip(point, solid.centre, normal, strict=True))
    cos, sin = float(np.cos(solid.yaw)), float(np.sin(solid.yaw))
    x, y = cos * x + sin * y, cos * y - sin * x
    f = solid.frequency
    if solid.texture == "checker":
        mix = _parity([x * f, y * f, z * f])
    elif solid.texture == "stripes":
        mix = _parity([((x + y) * 0.70710678 if solid.upright_stripes else z) * (f * 1.4)])
    elif solid.texture == "noise":
        mix = _noise([x * (f * 1.6), y * (f * 1.6), z * (f * 1.6)], solid.noise_seed)
    else:
        mix = np.zeros_like(x)
    first, second = (colour.astype(np.float32) for colour in solid.colours)
    return first + mix[:, None] * (second - first)


def _parity(cells: Sequence[Floats]) -> Floats:
    """0 or 1: whether the sum of the cell numbers is odd."""
    total = np.sum([np.floor(axis).astype(np.int32) for axis in cells], axis=0)
    return (total & 1).astype(np.float32)


def _noise(coordinates: Sequence[Floats], seed: int) -> Floats:
    """Value noise in [0, 1] with smoothstep weights, over as many axes as are given."""
    cells = [np.floor(axis) for axis in coordinates]
    corner = np.uint32(seed * _HASH_SEED & 0xFFFFFFFF)
    weights = []
    for axis, cell, prime in zip(coordinates, cells, _HASH, strict=False):
        part = axis - cell
        part = part * part * (3 - 2 * part)
        weights.append((1 - part, part))
        corner = corner + cell.astype(np.int32).view(np.uint32) * np.uint32(prime)
    total = np.zeros_like(coordinates[0])
    for ends in itertools.product((0, 1), repeat=len(cells)):
        offset = sum(end * prime for end, prime in zip(ends, _HASH, strict=False)) & 0xFFFFFFFF
        value = _scramble(corner + np.uint32(offset))
        for end, weight in zip(ends, weights, strict=True):
            value *= weight[end]
        total += value
    return total


def _scramble(key: NDArray[np.uint32]) -> Floats:
    """A hash of each key, as a number in [0, 1]."""
    mixed = (key ^ (key >> np.uint32(13))) * np.uint32(1274126177)
    return ((mixed ^ (mixed >> np.uint32(16))) & np.uint32(0xFFFF)).astype(np.float32) / np.float32(65535)
