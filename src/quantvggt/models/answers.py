"""What a model says about the frames that it was shown, in the same words whatever its family."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

SMALLEST = 1e-6


@dataclass(frozen=True)
class Answers:
    """Float32 tensors of a batch of B clips with S frames of H x W pixels; None where a model has no such head.

    size: (H, W). extrinsics: world-to-camera [B, S, 3, 4] (OpenCV); intrinsics: [B, S, 3, 3] in pixels; view: fields of
    view in radians, vertical and horizontal [B, S, 2].
    depth: along the optical axis [B, D, H, W] of the D frames that were asked for; points: [B, D, H, W, 3] in the
    world's frame; depth_conf, points_conf: [B, D, H, W], more is surer.
    tracks: x and y in pixels of each query in each frame [B, S, N, 2].
    metric: is the unit of length the metre? Else it is the model's own, or that of cameras that were given.
    """

    size: tuple[int, int]
    extrinsics: Tensor | None = None
    intrinsics: Tensor | None = None
    view: Tensor | None = None
    depth: Tensor | None = None
    depth_conf: Tensor | None = None
    points: Tensor | None = None
    points_conf: Tensor | None = None
    tracks: Tensor | None = None
    metric: bool = False

    def detach(self) -> "Answers":
        """The same numbers without a graph."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        values = {name: x.detach() for name, x in values.items() if isinstance(x, Tensor)}
        return replace(self, **values)

    def like(self, other: "Answers") -> "Answers":
        """Only what `other` has too."""
        missing: dict[str, Any] = {field.name: None for field in fields(self) if getattr(other, field.name) is None}
        return replace(self, **missing)


def quantities(answers: Answers) -> list[Tensor]:
    """What errors are measured in, of the first clip: for cameras rotations and translations between all pairs and
    fields of view, because the world's frame is a convention; depth, points and tracks as they are. Differentiable."""
    result: list[Tensor] = []
    if answers.extrinsics is not None and answers.view is not None:
        rotation, translation = answers.extrinsics[0, :, :, :3], answers.extrinsics[0, :, :, 3]
        between = rotation[:, None] @ rotation[None].transpose(-1, -2)
        moved = translation[:, None] - (between @ translation[None, :, :, None])[..., 0]
        result += [between, moved, answers.view[0]]
    return result + [x[0] for x in (answers.depth, answers.points, answers.tracks) if x is not None]


def units(answers: Answers) -> list[Tensor]:
    """What each of `quantities` is divided by, so that errors of all heads can be added up: translations by their root
    mean square, depth by itself, points by their distance from the origin, at least its median, tracks by the image's
    diagonal."""
    result: list[Tensor] = []
    one = torch.ones(())
    if answers.extrinsics is not None and answers.view is not None:
        _, moved, _ = quantities(Answers(answers.size, answers.extrinsics, view=answers.view))
        result += [one, moved.square().mean().sqrt().clamp(min=SMALLEST), one]
    if answers.depth is not None:
        result.append(answers.depth[0].clamp(min=SMALLEST))
    if answers.points is not None:
        distance = answers.points[0].norm(dim=-1, keepdim=True)
        result.append(torch.maximum(distance, distance.median()).clamp(min=SMALLEST))
    if answers.tracks is not None:
        result.append(torch.tensor(answers.size, dtype=torch.float32).norm())
    return result
