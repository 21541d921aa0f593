"""Methods that quantize the layers of a block one after the other, each on what the quantized ones before it give."""

import copy
from dataclasses import dataclass

from quantvggt.calibrate.methods.base import BlockTask, SiteMethod
from quantvggt.nn.quant_linear import QuantLinear


@dataclass(frozen=True)
class SequentialMethod(SiteMethod):
    """As GPTQ (arXiv 2210.17323) and its "true sequential" mode have it: a layer sees the inputs that it will get from
    the quantized blocks before its own and from the quantized layers before it, in the order qkv, proj, fc1, fc2."""

    @property
    def input_stream(self) -> str:
        return "quantized"

    def solve(self, task: BlockTask) -> dict[str, QuantLinear]:
        block, layers = copy.deepcopy(task.block), {}
        for layer, scheme in task.schemes.items():
            solver = self.start(task.site(layer), task.linear(layer))
            task.observe(block, {layer: solver.observe})
            layers[layer] = solver.solve(scheme)
            block.set_submodule(layer, layers[layer])
        return layers
