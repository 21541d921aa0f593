"""The smallest block there is, one linear layer, as a task for methods that learn."""

import torch
from torch import Tensor, nn

from quantvggt.calibrate.methods.base import BlockTask
from quantvggt.calibrate.stream import Stream
from quantvggt.core.scheme import Scheme
from quantvggt.models.family import Part, Place
from quantvggt.nn.quant_linear import QuantLinear

K = 48


class OneLayer(nn.Module):
    """A block that is nothing but a linear layer, `fc`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(K, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class OneLayerPart(Part):
    """It alone, in frames whose first five tokens are special."""

    places = (Place("block.0", layers=("fc",)),)
    special = 5

    def start(self, images: Tensor) -> tuple[Tensor, None]:
        raise AssertionError("its tokens are given")


def one_layer_task(scheme: str, tokens: list[Tensor]) -> BlockTask:
    """The layer on these inputs, [2, P, K] each."""
    part = OneLayerPart()
    inputs = Stream(part, tokens, [None] * len(tokens))
    return BlockTask(part.places[0], OneLayer(), {"fc": Scheme.parse(scheme)}, inputs, inputs)


def outlier_task(scheme: str = "w4a4", clips: int = 6) -> BlockTask:
    """Inputs with a few large channels that move together, so neither scaling nor a random rotation is best."""
    generator = torch.Generator().manual_seed(1)
    mix = torch.eye(K) + 0.3 * torch.randn(K, K, generator=generator)
    gains = torch.ones(K)
    gains[[3, 20, 21]] = 25.0
    return one_layer_task(scheme, [torch.randn(2, 40, K, generator=generator) @ mix * gains for _ in range(clips)])


def low_rank_task(scheme: str, clips: int = 6, subspaces: int = 1) -> BlockTask:
    """Inputs from a subspace of 12 dimensions, so rounding errors of a row can cancel out; clips take turns."""
    generator = torch.Generator().manual_seed(2)
    bases = [torch.randn(12, K, generator=generator) for _ in range(subspaces)]
    tokens = [torch.randn(2, 40, 12, generator=generator) @ bases[clip % subspaces] for clip in range(clips)]
    return one_layer_task(scheme, tokens)


def output_error(task: BlockTask, layers: dict[str, QuantLinear]) -> float:
    """Squared error of the outputs relative to their size."""
    outputs, targets = torch.stack([layers["fc"](x) for x in task.inputs.tokens]), torch.stack(task.targets.tokens)
    return ((outputs - targets).norm() / targets.norm()).item() ** 2
