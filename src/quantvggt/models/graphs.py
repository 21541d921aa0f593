"""The trunk of a pass of few frames as one CUDA graph, where launches and Python between them take longer than kernels.

The first pass of a shape runs kernel by kernel, which compiles and proves what has to be. If the shape comes again, the
trunk is captured (torch.cuda.graphs: the same kernels on the same memory), has to give that pass's features once, and
is replayed from then on. Whoever wants gradients, watches by a hook or casts around the model gets no graph. As no GPU
has captured one yet, it has to be asked for: by the environment variable QUANTVGGT_GRAPHS=1.
"""

import os
import threading
import warnings
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from quantvggt.core.errors import QuantVGGTError
from quantvggt.core.memory import gpu_available_bytes
from quantvggt.kernels import registry
from quantvggt.kernels.triton.capture import capture

if TYPE_CHECKING:
    from quantvggt.models.family import Model

ENVIRONMENT = "QUANTVGGT_GRAPHS"
MOST_PATCHES = 8192
"""Of all frames together, about seven of 518x392; with more the GPU is what is waited for."""
MOST_KEPT = 4  # graphs of one model, whose memory each has for itself
ROOM = 1.5  # times the working memory: what has to be free
TOLERANCE = 0.01  # of the features' norm: PyTorch may choose another of its kernels while it captures


@dataclass
class Pass:
    """A captured trunk: `images` are where the graph reads them, `features` where it writes. beside: what layers keep
    besides their weights, which the graph may go on reading when they don't."""

    graph: Any
    images: Tensor
    features: Any
    beside: list[dict[str, Any]]

    def run(self, images: Tensor) -> Any:
        """The features of these images, which later runs leave alone."""
        self.images.copy_(images)
        self.graph.replay()
        return tree_map_only(Tensor, Tensor.clone, self.features)


@dataclass
class Kept:
    """Of one model, as long as `weights` stay where they are: its passes by what they depend on. None: a shape that was
    seen once, or has no room."""

    weights: int
    passes: dict[Hashable, Pass | None] = field(default_factory=dict)
    closed: set[Hashable] = field(default_factory=set)
    failed: bool = False


_kept: WeakKeyDictionary["Model", Kept] = WeakKeyDictionary()
_lock = threading.Lock()


def encode(model: "Model", images: Tensor) -> Any:
    """`model.encode(images)`, replayed where that is possible and pays."""
    if not _pays(model, images) or (weights := _unwatched_weights(model)) is None:
        return model.encode(images)
    with _lock, torch.cuda.device(images.device):
        kept = _kept.get(model)
        if kept is None or kept.weights != weights:
            kept = _kept[model] = Kept(weights)
        key = _key(model, images)
        known = kept.passes.get(key)
        if known is not None:
            return known.run(images)
        features = model.encode(images)
        if kept.failed or key in kept.closed:
            return features
        if key not in kept.passes:
            kept.passes[key] = None
        elif not _has_room(model, images):
            kept.closed.add(key)
        else:
            try:
                kept.passes[key] = _capture(model, images, features)
            except Exception as error:  # whatever a kernel, a driver or a library has against being captured
                kept.failed = True
                warnings.warn(
                    "passes of few frames run kernel by kernel, not as a CUDA graph "
                    f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'})",
                    stacklevel=2,
                )
        while len(kept.passes) > MOST_KEPT:
            del kept.passes[next(iter(kept.passes))]
        return features


def captured(model: "Model") -> int:
    """How many of its passes are replayed."""
    kept = _kept.get(model)
    return 0 if kept is None else sum(made is not None for made in kept.passes.values())


def _pays(model: "Model", images: Tensor) -> bool:
    """Is it a GPU that waits for launches, and nobody who has to see each of them?"""
    frames, height, width = images.shape[0] * images.shape[1], *images.shape[-2:]
    return (
        _on_gpu(images)
        and frames * height * width <= MOST_PATCHES * model.patch_size**2
        and os.environ.get(ENVIRONMENT) == "1"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled(images.device.type)  # which keeps casts that a graph would go on reading
        and not torch.compiler.is_compiling()
    )


def _on_gpu(images: Tensor) -> bool:
    """And on its usual stream, outside of anybody else's capture?"""
    if images.device.type != "cuda":
        return False
    return torch.cuda.current_stream(images.device) == torch.cuda.default_stream(images.device)


def _unwatched_weights(model: "Model") -> int | None:
    """Where all weights lie and how often they were written into, as one number; None if a hook watches a layer.

    Not by `modules` and `parameters`, which take three times as long, and a replay waits for it."""
    modules: list[nn.Module] = [model]
    weights: list[Tensor | None] = []
    for module in modules:
        if module._forward_hooks or module._forward_pre_hooks:
            return None
        modules.extend(part for part in module._modules.values() if part is not None)
        weights.extend(module._parameters.values())
        weights.extend(module._buffers.values())
    present = [value for value in weights if value is not None]
    return hash(tuple([(value.data_ptr(), 0 if value.is_inference() else value._version) for value in present]))


def _key(model: "Model", images: Tensor) -> Hashable:
    how = torch.is_inference_mode_enabled(), registry.forced_name(), model.switches
    return images.shape, images.dtype, images.device, how


def _has_room(model: "Model", images: Tensor) -> bool:
    """The graph's memory is for it alone, so what the allocator could use again doesn't count."""
    torch.cuda.empty_cache()
    needed = model.working_bytes(images.shape[0] * images.shape[1], *images.shape[-2:])
    return needed is not None and ROOM * needed <= gpu_available_bytes(images.device)


def _capture(model: "Model", images: Tensor, features: Any) -> Pass:
    """Raises an error of any kind if it can't be done, or doesn't give these images' features."""
    static = images * 0.5  # others than these, so that what wasn't read from `static` would show
    graph = torch.cuda.CUDAGraph()
    with capture(graph, images.device):
        features_there = model.encode(static)
    made = Pass(graph, static, features_there, [dict(vars(module)) for module in model.modules()])
    for got, expected in zip(tree_leaves(made.run(images)), tree_leaves(features), strict=True):
        if not (got - expected).float().norm() <= TOLERANCE * expected.float().norm():
            raise QuantVGGTError("its replay gives other features (please report that)")
    return made
