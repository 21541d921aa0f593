"""What is known of a clip before a model looks at it."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from quantvggt.core.errors import InputError


@dataclass(frozen=True)
class Given:
    """Of every one of S frames of H x W pixels; each is optional.

    extrinsics: world-to-camera [S, 3, 4] (OpenCV), in any world and unit; intrinsics: [S, 3, 3] in the frames' pixels;
    depth: [S, H, W] along the optical axis, in the unit of the extrinsics, 0 where it is unknown.
    """

    extrinsics: Tensor | None = None
    intrinsics: Tensor | None = None
    depth: Tensor | None = None

    def known(self) -> frozenset[str]:
        """The names of what is there."""
        return frozenset(field.name for field in fields(self) if getattr(self, field.name) is not None)

    def checked(self, frames: int, height: int, width: int, device: torch.device) -> "Given":
        """The same on a device, in float32. Raises InputError if a shape or a number can't be right."""
        shapes = {"extrinsics": (frames, 3, 4), "intrinsics": (frames, 3, 3), "depth": (frames, height, width)}
        values: dict[str, Tensor] = {}
        for name in self.known():
            value = getattr(self, name)
            if not isinstance(value, Tensor) or tuple(value.shape) != shapes[name]:
                got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise InputError(f"given {name} must be a tensor {list(shapes[name])} for these frames, got {got}")
            if not value.isfinite().all() or (name == "depth" and (value < 0).any()):
                raise InputError(f"given {name} must be finite{', 0 where it is unknown' * (name == 'depth')}")
            values[name] = value.to(device, torch.float32)
        return Given(**values)
