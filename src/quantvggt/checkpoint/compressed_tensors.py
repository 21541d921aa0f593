"""The `quantization_config` block by which other tools recognise our integer weights.

It follows the compressed-tensors convention (github.com/vllm-project/compressed-tensors): per group of
layers the width of a number's field, symmetric, one scale per output channel; activations one scale per token,
found at run time. It says only what that convention has words for: rotation and smoothing are in `sites`,
see docs/format.md.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Protocol

from quantvggt.core.scheme import Scheme

PACKED, INT8 = "pack-quantized", "int-quantized"


class _Site(Protocol):
    @property
    def scheme(self) -> Scheme: ...
    @property
    def packed(self) -> bool: ...


def quantization_config(sites: Mapping[str, _Site]) -> dict[str, Any]:
    """The JSON-able block for `sites` (layer name -> record)."""
    groups: dict[tuple[bool, Scheme], list[str]] = defaultdict(list)
    for name, site in sites.items():
        groups[site.packed, site.scheme].append(name)
    formats = {PACKED if packed else INT8 for packed, _ in groups}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "config_groups": {
            f"group_{index}": _group(targets, packed, scheme)
            for index, ((packed, scheme), targets) in enumerate(groups.items())
        },
        "ignore": [],
    }


def _group(targets: list[str], packed: bool, scheme: Scheme) -> dict[str, Any]:
    # Numbers of 5 to 7 bits lie in int8.
    weights = {"num_bits": scheme.weight_bits if packed else 8, "type": "int", "symmetric": True, "strategy": "channel"}
    activations = {
        "num_bits": scheme.act_bits,
        "type": "int",
        "symmetric": not scheme.asymmetric,
        "strategy": "tensor" if scheme.per_tensor else "token",
        "dynamic": not scheme.static,
    }
    return {
        "targets": targets,
        "format": PACKED if packed else INT8,
        "weights": {**weights, "dynamic": False},
        "input_activations": activations if scheme.quantizes_activations else None,
    }
