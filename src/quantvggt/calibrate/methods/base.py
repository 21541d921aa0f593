"""What every quantization method offers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from quantvggt.core.scheme import Scheme
from quantvggt.models.linear import QuantLinear


class SiteSolver(ABC):
    """Finds the numbers of one layer: first it sees the layer's inputs, sample by sample, then it solves."""

    @abstractmethod
    def observe(self, x: Tensor) -> None:
        """x: one sample's input to the layer, [.., K] in any floating dtype."""

    @abstractmethod
    def solve(self, scheme: Scheme) -> QuantLinear:
        """The quantized layer."""


@dataclass(frozen=True)
class Method(ABC):
    """Its fields are its settings; they are recorded in the checkpoint."""

    name: ClassVar[str]
    needs_calibration: ClassVar[bool]

    @abstractmethod
    def start(self, site: str, linear: nn.Linear) -> SiteSolver:
        """A solver for the layer called `site`."""
