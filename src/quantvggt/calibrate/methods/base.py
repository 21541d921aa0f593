"""What every quantization method offers: it turns one block's linear layers into quantized ones."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from quantvggt.calibrate.capture import watched
from quantvggt.calibrate.importance import Importance
from quantvggt.calibrate.stream import Stream
from quantvggt.core.scheme import Scheme
from quantvggt.models import Model
from quantvggt.models.family import Place
from quantvggt.nn.quant_linear import QuantLinear
from quantvggt.scenes.clip import Clip


@dataclass
class BlockTask:
    """One block to quantize.

    block: the float block; leave it as it is. schemes: layer ("attn.qkv", ...) -> its bit widths.
    inputs: what comes in, from the stream that the method asked for; floats: what the float model has there; targets:
    what it has behind the block. importance: weight of each number that comes out, see `calibrate.importance`, if
    asked for. tick: call it after each of the method's `ticks` steps, with a few words for the bar. static: layers that
    get static ranges when they are finished; until then their schemes are dynamic.
    """

    place: Place
    block: nn.Module
    schemes: Mapping[str, Scheme]
    inputs: Stream
    floats: Stream
    importance: Importance | None = None
    tick: Callable[[str], None] = field(default=lambda words: None)
    static: Collection[str] = ()

    @cached_property
    def targets(self) -> Stream:
        """What the float model has behind the block."""
        return self.floats.after(self.block, self.place)

    def linear(self, layer: str) -> nn.Linear:
        """The float layer."""
        module = self.block.get_submodule(layer)
        assert isinstance(module, nn.Linear)
        return module

    def site(self, layer: str) -> str:
        """Its full name, "aggregator.frame_blocks.0.attn.qkv"."""
        return f"{self.place.name}.{layer}"

    @torch.no_grad()
    def observe(self, block: nn.Module, observers: Mapping[str, Callable[[Tensor], None]]) -> None:
        """Run `block` (this one, or a copy with layers replaced) on every clip; observers[layer] sees the inputs."""
        with watched(block, observers):
            outputs = self.inputs.after(block, self.place)
        if block is self.block and self.inputs is self.floats:
            self.targets = outputs  # so nobody has to run it again


@dataclass(frozen=True)
class Method(ABC):
    """Its fields are its settings; they are recorded in the checkpoint."""

    name: ClassVar[str]
    needs_calibration: ClassVar[bool] = True
    takes_float8: ClassVar[bool] = False
    """Does it leave rounding to `QuantLinear.from_float`, which knows float8 too?"""

    @abstractmethod
    def solve(self, task: BlockTask) -> dict[str, QuantLinear]:
        """Layer -> quantized layer, for each layer in `task.schemes`."""

    @property
    def input_stream(self) -> str:
        """Whose outputs a block's inputs are: the "float" model's, or those of the "quantized" blocks before it."""
        return "float"

    def refine(self, scheme: Scheme) -> Scheme:
        """The scheme that the method really uses where `scheme` is asked for."""
        return scheme

    def prepare(self, model: Model, clips: Sequence[Clip], progress: bool) -> Mapping[str, Importance]:
        """Before the first block: block name -> importance of its outputs, for methods that weigh them."""
        return {}

    @property
    def ticks(self) -> int:
        """How many times `solve` calls `task.tick`."""
        return 0


class SiteSolver(ABC):
    """Finds the numbers of one layer: first it sees the layer's inputs, clip by clip, then it solves."""

    @abstractmethod
    def observe(self, x: Tensor) -> None:
        """x: one clip's input to the layer, [.., K] in any floating dtype."""

    @abstractmethod
    def solve(self, scheme: Scheme) -> QuantLinear:
        """The quantized layer."""


@dataclass(frozen=True)
class SiteMethod(Method):
    """A method that looks at each layer by itself."""

    @abstractmethod
    def start(self, site: str, linear: nn.Linear) -> SiteSolver:
        """A solver for the layer called `site`."""

    def solve(self, task: BlockTask) -> dict[str, QuantLinear]:
        solvers = {layer: self.start(task.site(layer), task.linear(layer)) for layer in task.schemes}
        if self.needs_calibration:
            task.observe(task.block, {layer: solver.observe for layer, solver in solvers.items()})
        return {layer: solver.solve(task.schemes[layer]) for layer, solver in solvers.items()}
