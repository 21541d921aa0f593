"""The `quantization_config` block by which other tools recognise our quantized weights.

It follows the compressed-tensors convention (github.com/vllm-project/compressed-tensors): per group of
layers the width of a number's field, symmetric, one scale per output channel; activations one scale per token,
found at run time. It says only what that convention has words for: rotation and smoothing are in `sites`,
see docs/format.md.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Protocol

from quantvggt.core.scheme import Scheme

PACKED, INT8, FLOAT8 = "pack-quantized", "int-quantized", "float-quantized"


class _Site(Protocol):
    @property
    def scheme(self) -> Scheme: ...
    @property
    def packed(self) -> bool: ...


def quantization_config(sites: Mapping[str, _Site]) -> dict[str, Any]:
    """The JSON-able block for `sites` (layer name -> record)."""
    groups: dict[tuple[str, Scheme], list[str]] = defaultdict(list)
    for name, site in sites.items():
        groups[_format(site), site.scheme].append(name)
    formats = {layout for layout, _ in groups}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "config_groups": {
            f"group_{index}": _group(targets, layout, scheme)
            for index, ((layout, scheme), targets) in enumerate(groups.items())
        },
        "ignore": [],
    }


def _format(site: _Site) -> str:
    if site.scheme.float8:
        return FLOAT8
    return PACKED if site.packed else INT8


def _group(targets: list[str], layout: str, scheme: Scheme) -> dict[str, Any]:
    # Numbers of 5 to 7 bits lie in int8.
    bits, kind = scheme.weight_bits if layout == PACKED else 8, "float" if scheme.float8 else "int"
    weights = {"num_bits": bits, "type": kind, "symmetric": True, "strategy": "channel"}
    activations = {
        "num_bits": scheme.act_bits,
        "type": kind,
        "symmetric": not scheme.asymmetric,
        "strategy": "tensor" if scheme.per_tensor else "token",
        "dynamic": not scheme.static,
    }
    return {
        "targets": targets,
        "format": layout,
        "weights": {**weights, "dynamic": False},
        "input_activations": activations if scheme.quantizes_activations else None,
    }
