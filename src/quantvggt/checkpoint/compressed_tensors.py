"""The `quantization_config` block by which other tools recognise our integer weights.

It follows the compressed-tensors convention (github.com/vllm-project/compressed-tensors): per group of
layers the container's bit width, symmetric, one scale per output channel; activations one scale per token,
found at run time. It says only what that convention has words for: rotation and smoothing are in `sites`,
see docs/format.md.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Protocol

PACKED, INT8 = "pack-quantized", "int-quantized"


class _Site(Protocol):
    @property
    def act_bits(self) -> int: ...
    @property
    def packed(self) -> bool: ...


def quantization_config(sites: Mapping[str, _Site]) -> dict[str, Any]:
    """The JSON-able block for `sites` (layer name -> record)."""
    groups: dict[tuple[bool, int], list[str]] = defaultdict(list)
    for name, site in sites.items():
        groups[site.packed, site.act_bits].append(name)
    formats = {PACKED if packed else INT8 for packed, _ in groups}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "config_groups": {
            f"group_{index}": _group(targets, packed, act_bits)
            for index, ((packed, act_bits), targets) in enumerate(groups.items())
        },
        "ignore": [],
    }


def _group(targets: list[str], packed: bool, act_bits: int) -> dict[str, Any]:
    # The container's width, not the scheme's: 3-bit numbers lie in 4-bit fields, 5 to 7 bits in int8.
    weights = {"num_bits": 4 if packed else 8, "type": "int", "symmetric": True, "strategy": "channel"}
    activations = {
        "num_bits": act_bits,
        "type": "int",
        "symmetric": True,
        "strategy": "token",
        "dynamic": True,
    }
    return {
        "targets": targets,
        "format": PACKED if packed else INT8,
        "weights": {**weights, "dynamic": False},
        "input_activations": activations if act_bits < 16 else None,
    }
