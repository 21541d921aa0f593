"""Round to nearest: no transform, no calibration; the floor every other method must beat."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from quantvggt.calibrate.methods.base import Method, SiteSolver
from quantvggt.core.scheme import Scheme
from quantvggt.models.linear import QuantLinear


class _Solver(SiteSolver):
    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear

    def observe(self, x: Tensor) -> None:
        pass

    def solve(self, scheme: Scheme) -> QuantLinear:
        return QuantLinear.from_float(self.linear, scheme)


@dataclass(frozen=True)
class RTN(Method):
    """Per-channel weight scales from the weights, per-token activation scales at run time."""

    name: ClassVar[str] = "rtn"
    needs_calibration: ClassVar[bool] = False

    def start(self, site: str, linear: nn.Linear) -> SiteSolver:
        return _Solver(linear)
