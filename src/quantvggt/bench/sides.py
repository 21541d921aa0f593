"""What can be timed: a quantized checkpoint, and the baselines it is compared with."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from quantvggt.bench.published import run_the_published_way
from quantvggt.checkpoint.load import load
from quantvggt.core.errors import InputError
from quantvggt.models import VGGT, Model
from quantvggt.models.family import find_family
from quantvggt.models.seeded import seeded_model
from quantvggt.nn.block import Block

BASELINES = {
    "published-float32": "as the published code runs it, float32",
    "published-bf16": "as the published code runs it, under bfloat16 autocast",
    "float": "our float model, bfloat16",
    "float-compiled": "the same with its blocks under torch.compile",
    "torchao": "torchao's int8 dynamic quantization of every linear layer, bfloat16 for the rest",
    "torchao-compiled": "the same with its blocks under torch.compile",
}
BYTES_PER_WEIGHT = {"published-float32": 4, "published-bf16": 4}
"""Of a side's process at rest; 2 for all others."""

Forward = Callable[[Tensor], Any]


def open_side(side: str, source: str | dict[str, Any], device: str, attention_bits: int = 16) -> Forward:
    """The forward pass of one side on images [1, S, 3, H, W].

    side: a key of BASELINES, or anything else for a quantized checkpoint. source: what `load` takes, or family and
    config of a model with seeded weights. attention_bits: of quantized checkpoints, see `Model.attention_bits`.
    Raises InputError if something isn't installed.
    """
    dtype = torch.float32 if side.startswith("published") else torch.bfloat16
    if isinstance(source, dict):
        config = find_family(source["family"]).config.from_dict(source["config"])
        model = seeded_model(config, dtype=dtype, device=device)
    else:
        model = load(source, dtype=dtype if side in BASELINES else "auto", device=device)
    if side not in BASELINES:
        model.attention_bits = attention_bits
    mode: Callable[[], AbstractContextManager[Any]] = torch.inference_mode
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    if side.startswith("published"):
        if not isinstance(model, VGGT):
            raise InputError(f"{side} is how VGGT's published code runs; this model is of another family")
        run_the_published_way(model)
        mode = torch.no_grad  # under which autocast keeps what it converted
    if side == "published-bf16":
        around = lambda: torch.autocast(device.partition(":")[0], torch.bfloat16)  # noqa: E731
    if side.startswith("torchao"):
        _torchao(model)
    if side.endswith("-compiled"):
        for module in model.modules():
            if isinstance(module, Block):
                module.compile(dynamic=False)

    def forward(images: Tensor) -> Any:
        with mode(), around():
            return model.answers(images.to(device))

    return forward


def _torchao(model: Model) -> None:
    """Int8 weights per channel, int8 activations per token at run time (torchao.quantization)."""
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError as error:
        raise InputError(f"torchao is not installed ({error}): pip install 'quantvggt[bench]'") from error
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
