"""Cameras with distortion, in COLMAP's models, and pictures without it.

Formulas: COLMAP's camera models (https://colmap.github.io/cameras.html). Pixel centres lie at +0.5.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.scenes.datasets.read import Floats, Matrix
from quantvggt.scenes.datasets.views import pinhole

MODELS = {
    "SIMPLE_PINHOLE": "f cx cy",
    "PINHOLE": "fx fy cx cy",
    "SIMPLE_RADIAL": "f cx cy k1",
    "RADIAL": "f cx cy k1 k2",
    "OPENCV": "fx fy cx cy k1 k2 p1 p2",
    "OPENCV_FISHEYE": "fx fy cx cy k1 k2 k3 k4",
    "FULL_OPENCV": "fx fy cx cy k1 k2 p1 p2 k3 d1 d2 d3",
    "FOV": "",
    "SIMPLE_RADIAL_FISHEYE": "f cx cy k1",
    "RADIAL_FISHEYE": "f cx cy k1 k2",
    "THIN_PRISM_FISHEYE": "fx fy cx cy k1 k2 p1 p2 k3 k4 sx sy",
}
"""COLMAP's models in the order of their numbers, and their parameters; d1 to d3 divide. FOV isn't read."""

FAR = 1e9
"""Pixels; what a lens puts beyond, or nowhere, lies there."""
_ROWS = 256  # undistorted at a time


@dataclass(frozen=True)
class Camera:
    """lens: float64 [3, 3] in pixels of a width x height picture; radial, rational: coefficients of r^2, r^4, ...;
    tangential: p1, p2; prism: sx, sy; fisheye: they apply to the angle from the axis instead of its tangent."""

    width: int
    height: int
    lens: Matrix
    fisheye: bool = False
    radial: tuple[float, ...] = ()
    rational: tuple[float, ...] = ()
    tangential: tuple[float, float] = (0.0, 0.0)
    prism: tuple[float, float] = (0.0, 0.0)

    @property
    def distorts(self) -> bool:
        return self.fisheye or any((*self.radial, *self.rational, *self.tangential, *self.prism))

    def scaled(self, width: int, height: int) -> "Camera":
        """Of the same picture at another size."""
        if (width, height) == (self.width, self.height):
            return self
        lens = np.diag([width / self.width, height / self.height, 1]) @ self.lens
        return replace(self, width=width, height=height, lens=lens)

    def distorted(self, x: Matrix, y: Matrix) -> tuple[Matrix, Matrix]:
        """Pixels in the picture of directions (x, y, 1)."""
        if self.fisheye:
            tangent = np.hypot(x, y)
            bent = np.where(tangent > 1e-12, np.arctan(tangent) / np.maximum(tangent, 1e-12), 1)
            x, y = x * bent, y * bent
        square = x * x + y * y
        factor = _polynomial(self.radial, square) / _polynomial(self.rational, square)
        (p1, p2), (sx, sy) = self.tangential, self.prism
        u = x * factor + 2 * p1 * x * y + p2 * (square + 2 * x * x) + sx * square
        v = y * factor + 2 * p2 * x * y + p1 * (square + 2 * y * y) + sy * square
        return self.lens[0, 0] * u + self.lens[0, 2], self.lens[1, 1] * v + self.lens[1, 2]

    def straighten(self, image: Image.Image, values: Floats | None = None) -> tuple[Image.Image, Floats | None]:
        """The RGB picture that a camera of this `lens` without distortion takes: bilinear, black outside.

        values: [H, W] of its pixels that can't be mixed, such as depth: the nearest, 0 outside.
        """
        if not self.distorts:
            return image, values
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        colours, taken = [], []
        for u, v in self._sources():
            grid = torch.from_numpy(np.stack([2 * u / self.width - 1, 2 * v / self.height - 1], -1))[None].float()
            rows = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            colours.append(rows[0].round_().clamp_(0, 255).byte().permute(1, 2, 0))
            if values is not None:
                column, row = np.floor(u).astype(np.intp), np.floor(v).astype(np.intp)
                inside = (column >= 0) & (column < self.width) & (row >= 0) & (row < self.height)
                taken.append(np.where(inside, values[np.where(inside, row, 0), np.where(inside, column, 0)], 0))
        straight = Image.fromarray(torch.cat(colours).numpy())
        return straight, None if values is None else np.concatenate(taken)

    def _sources(self) -> Iterator[tuple[Matrix, Matrix]]:
        """For some rows at a time: where the pixels of the straight picture lie in the distorted one."""
        x = (np.arange(self.width) + 0.5 - self.lens[0, 2]) / self.lens[0, 0]
        for first in range(0, self.height, _ROWS):
            rows = np.arange(first, min(first + _ROWS, self.height))
            y = (rows + 0.5 - self.lens[1, 2]) / self.lens[1, 1]
            with np.errstate(over="ignore", invalid="ignore"):  # a damaged file's coefficients
                u, v = self.distorted(*np.broadcast_arrays(x[None], y[:, None]))
                yield np.nan_to_num(u, nan=FAR).clip(-FAR, FAR), np.nan_to_num(v, nan=FAR).clip(-FAR, FAR)


def make_camera(model: str, width: int, height: int, values: Sequence[float] | Mapping[str, float]) -> Camera:
    """A camera of one of COLMAP's models from its parameters, in COLMAP's order or by name (what is absent is 0).

    Raises InputError if the model isn't known or the parameters make no camera.
    """
    names = MODELS.get(model, "").split()
    if not names:
        known = ", ".join(name for name, told in MODELS.items() if told)
        raise InputError(f"camera model {model} can't be read, only {known}; undistort the pictures first")
    if not isinstance(values, Mapping):
        if len(values) != len(names):
            raise InputError(f"a camera of model {model} has {len(names)} parameters, not {len(values)}")
        values = dict(zip(names, values, strict=True))
    focal = [values.get(name, values.get("f", 0.0)) for name in ("fx", "fy")]
    numbers = np.array([*focal, values["cx"], values["cy"], *values.values()], np.float64)
    if not np.isfinite(numbers).all() or min(focal) <= 0 or width < 1 or height < 1:
        raise InputError(f"a camera of {width}x{height} pixels with {dict(values)} can't be")

    def found(*keys: str) -> tuple[float, ...]:
        return tuple(float(values.get(key, 0.0)) for key in keys if key in names)

    (p1, p2), (sx, sy) = (found(*pair) or (0.0, 0.0) for pair in (("p1", "p2"), ("sx", "sy")))
    return Camera(
        width,
        height,
        pinhole(focal[0], focal[1], values["cx"], values["cy"]),
        fisheye=model.endswith("FISHEYE"),
        radial=found("k1", "k2", "k3", "k4"),
        rational=found("d1", "d2", "d3"),
        tangential=(p1, p2),
        prism=(sx, sy),
    )


def _polynomial(coefficients: Sequence[float], square: Matrix) -> Matrix:
    """1 + k1 r^2 + k2 r^4 + ..."""
    total = np.zeros_like(square)
    for coefficient in reversed(coefficients):
        total = (total + coefficient) * square
    return total + 1
