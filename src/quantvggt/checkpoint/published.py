"""Import the parameters that the published QuantVGGT code saves (arXiv 2509.21302, code of 2026-03).

A folder holds two files, one for the frame and one for the global blocks, each {block index: {name: tensor}}
with, per linear layer, `channel_wise_scale` [1, K], `rotation_matrix` [K, K], `clip_factor_w_max` and `_min`
[N, 1], `act_quantizer.clip_factor_a_max` and `_min` [1]. The clip factors are stored before their sigmoid.
Bit widths are not stored: whoever ran the calibration has to name them.
"""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from quantvggt.checkpoint.weights import is_plain, load_torch
from quantvggt.core.errors import InputError
from quantvggt.core.rotation import signs_from_matrix
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.models import VGGT, Model
from quantvggt.models.quantization import Quantization
from quantvggt.models.sites import quantizable_sites
from quantvggt.nn.quant_linear import QuantLinear

METHOD = "dsfq-published"
FILES = {
    "aggregator.frame_blocks": "qs_frame_parameters_total.pth",
    "aggregator.global_blocks": "qs_global_parameters_total.pth",
}

_REMEDY = "import into the model that was calibrated"


def import_published(model: Model, folder: str | os.PathLike[str], scheme: str | Scheme) -> Model:
    """Quantize `model` with the parameters in `folder`; returns a new model, the float tensors are shared.

    scheme: the bit widths of the calibration, such as "w4a4"; the files don't tell.
    The arithmetic is the published one, with a fast transform in place of the dense rotation and integer sums
    in place of float ones: a number within float32 rounding of a tie may land one step away, and a model's
    outputs then differ as much as they do under the same-sized change of the input.
    Raises InputError if a file is missing, damaged or made for another model.
    """
    scheme = Scheme.parse(scheme)
    if not isinstance(model, VGGT):
        raise InputError("QuantVGGT's parameters are for VGGT; this model is of another family")
    sites = quantizable_sites(model)
    if any(isinstance(site, QuantLinear) for site in sites.values()):
        raise InputError("this model is already quantized; import into the model in full precision")
    folder = Path(folder)
    parameters: dict[str, Tensor] = {}
    for prefix, filename in FILES.items():
        parameters |= _read(folder / filename, prefix, model.config.depth)
    _check(parameters, sites, folder)

    result = model.sharing_copy()
    for name, linear in sites.items():
        values = {key: parameters[f"{name}.{key}"] for key in _shapes(linear)}
        try:
            result.set_submodule(name, _quantize(linear, scheme, values))
        except InputError as error:
            raise InputError(f"{folder}: {name}: {error}") from error
    result.quantization = Quantization(scheme, METHOD, calibration={"imported_from": folder.resolve().name})
    return result


def _quantize(linear: nn.Module, scheme: Scheme, values: dict[str, Tensor]) -> QuantLinear:
    assert isinstance(linear, nn.Linear)
    weight_clip = torch.cat([values["clip_factor_w_max"], values["clip_factor_w_min"]], dim=1).float()
    input_clip = torch.cat(
        [values["act_quantizer.clip_factor_a_max"], values["act_quantizer.clip_factor_a_min"]]
    ).float()
    return QuantLinear.from_float(
        linear,
        scheme,
        Transform(
            signs=signs_from_matrix(values["rotation_matrix"]),
            smooth=values["channel_wise_scale"].float().flatten(),
        ),
        weight_clip=weight_clip.sigmoid(),
        input_clip=input_clip.sigmoid() if scheme.quantizes_activations else None,
    )


def _shapes(linear: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the parameters of one layer."""
    assert isinstance(linear, nn.Linear)
    n, k = linear.weight.shape
    return {
        "channel_wise_scale": (1, k),
        "rotation_matrix": (k, k),
        "clip_factor_w_max": (n, 1),
        "clip_factor_w_min": (n, 1),
        "act_quantizer.clip_factor_a_max": (1,),
        "act_quantizer.clip_factor_a_min": (1,),
    }


def _read(path: Path, prefix: str, depth: int) -> dict[str, Tensor]:
    """The file's tensors under full names, `prefix`.{block}.{layer}.{parameter}."""
    if not path.is_file():
        raise InputError(f"{path} is missing: name the folder with {' and '.join(FILES.values())}")
    blocks = load_torch(path)
    if not isinstance(blocks, dict) or not all(isinstance(block, dict) for block in blocks.values()):
        raise InputError(f"{path} is not a file of QuantVGGT parameters, {{block index: {{name: tensor}}}}")
    if set(blocks) != set(range(depth)):
        raise InputError(f"{path} is for {len(blocks)} blocks, but this model has {depth}; {_REMEDY}")
    return {f"{prefix}.{index}.{name}": value for index, block in blocks.items() for name, value in block.items()}


def _check(parameters: dict[str, Tensor], sites: dict[str, nn.Module], folder: Path) -> None:
    shapes = {f"{name}.{key}": shape for name, site in sites.items() for key, shape in _shapes(site).items()}
    odd = sorted(set(parameters) ^ set(shapes))
    if odd:
        raise InputError(f"{folder}: {len(odd)} parameters are missing or unknown ({', '.join(odd[:3])}); {_REMEDY}")
    for name, shape in shapes.items():
        value = parameters[name]
        if not is_plain(value) or not value.is_floating_point():
            raise InputError(f"{folder}: {name} is not a floating-point tensor; {_REMEDY}")
        if tuple(value.shape) != shape:
            raise InputError(f"{folder}: {name} has shape {list(value.shape)}, expected {list(shape)}; {_REMEDY}")
