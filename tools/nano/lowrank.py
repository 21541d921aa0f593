"""Train a model as a small difference from another: low-rank factors for its matrices, small tensors replaced."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from quantvggt.checkpoint.packaged import LEFT, RIGHT
from quantvggt.models import VGGT


class LowRank(nn.Module):
    """W [out, in] -> W + left [out, r] @ right [r, in]."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(left), nn.Parameter(right)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.left @ self.right


def factors(difference: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors [out, r], [r, in] whose product is `difference`, if its rank allows it, with room to learn more.

    Directions that the difference doesn't need start at zero on the left and at random on the right.
    """
    u, s, v = torch.linalg.svd(difference, full_matrices=False)
    root = s[:rank].sqrt()
    left, right = u[:, :rank] * root, root[:, None] * v[:rank]
    unused = s[:rank] < 1e-4 * s[0].clamp_min(1e-6)
    left[:, unused] = 0
    right[unused] = torch.randn_like(right[unused]) / right.shape[1] ** 0.5
    return left.contiguous(), right.contiguous()


def ranks(model: VGGT, trunk: int, camera: int) -> dict[str, int]:
    """{name of a matrix: rank of its update}: all linear layers of the trunk and of the camera head's blocks."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            if name.startswith("aggregator."):
                found[f"{name}.weight"] = trunk
            elif name.startswith("camera_head.trunk."):
                found[f"{name}.weight"] = camera
    return found


def is_small(name: str, value: Tensor) -> bool:
    """Whether a tensor is replaced whole: tokens, norms, gains and biases of the trunk and the camera head."""
    return name.startswith(("aggregator.", "camera_head.")) and (value.ndim <= 1 or name.endswith("_token"))


def make_trainable(model: VGGT, original: VGGT, rank_of: dict[str, int]) -> list[nn.Parameter]:
    """Turn `model`, which differs from `original` by matrices of low rank and small tensors, into original plus
    factors; returns what trains, everything else is frozen."""
    source = original.state_dict()
    trained = []
    for name, parameter in list(model.named_parameters()):
        parameter.requires_grad_(is_small(name, parameter))
        if parameter.requires_grad:
            trained.append(parameter)
        elif name in rank_of:
            low_rank = LowRank(*factors(parameter.detach() - source[name], rank_of[name]))
            parameter.data = source[name].clone()
            parametrize.register_parametrization(model.get_submodule(name.removesuffix(".weight")), "weight", low_rank)
            trained += [low_rank.left, low_rank.right]
    return trained


def overlay(model: VGGT, original: VGGT) -> dict[str, Tensor]:
    """What `model` is beyond `original`: {name: float16}, a matrix as its two factors."""
    tensors = {}
    for name, value in original.state_dict().items():
        module = model.get_submodule(name.rpartition(".")[0])
        if parametrize.is_parametrized(module, "weight") and name.endswith(".weight"):
            (low_rank,) = module.parametrizations["weight"]  # type: ignore[index]
            tensors[name + LEFT], tensors[name + RIGHT] = low_rank.left, low_rank.right
        elif is_small(name, value):
            tensors[name] = model.get_parameter(name)
    return {name: value.detach().half().contiguous() for name, value in tensors.items()}


def truncated(tensors: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """An overlay whose factors have at most that rank: the nearest ones, by singular values."""
    result = {}
    for name, value in tensors.items():
        if name.endswith(LEFT):
            right = name.removesuffix(LEFT) + RIGHT
            u, s, v = torch.linalg.svd(value.double() @ tensors[right].double(), full_matrices=False)
            root = s[:rank].sqrt()
            result[name], result[right] = u[:, :rank] * root, root[:, None] * v[:rank]
        elif not name.endswith(RIGHT):
            result[name] = value
    return {name: value.half().contiguous() for name, value in result.items()}
