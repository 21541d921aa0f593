"""Round to nearest: no transform, no calibration; the floor every other method must beat."""

from dataclasses import dataclass
from typing import ClassVar

from quantvggt.calibrate.methods.base import BlockTask, Method
from quantvggt.nn.quant_linear import QuantLinear


@dataclass(frozen=True)
class RTN(Method):
    """Per-channel weight scales from the weights, per-token activation scales at run time."""

    name: ClassVar[str] = "rtn"
    needs_calibration: ClassVar[bool] = False
    takes_float8: ClassVar[bool] = True

    def solve(self, task: BlockTask) -> dict[str, QuantLinear]:
        return {layer: QuantLinear.from_float(task.linear(layer), scheme) for layer, scheme in task.schemes.items()}
