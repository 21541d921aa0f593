"""The loop from a float model to a quantized one."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from quantvggt.calibrate.capture import observe_inputs
from quantvggt.calibrate.methods import make_method
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.models import VGGT
from quantvggt.models.linear import FLOAT32_BUFFERS
from quantvggt.models.quantization import Quantization
from quantvggt.models.sites import quantizable_sites
from quantvggt.scenes.clip import Clip


@torch.no_grad()
def quantize(
    model: VGGT,
    scheme: str | Scheme,
    method: str,
    clips: Sequence[Clip] = (),
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> VGGT:
    """A new model whose frame and global blocks compute in few bits; `model` itself stays as it was.

    scheme: a preset such as "w4a4", or a Scheme. method: a name in `calibrate.methods.METHODS`, with its
    `settings`; `seed` is that of its randomness. clips: the calibration set; "rtn" needs none.
    progress: bars on stderr.

    Parameters that are not quantized are rounded to float16 if the model is float32, so that the checkpoint
    can store all of them in 16 bits without changing one output.
    Raises InputError on an unknown scheme, method or setting, a missing calibration set, or a model that is
    quantized already.
    """
    scheme, solver_of = Scheme.parse(scheme), make_method(method, settings, seed)
    if model.quantization is not None:
        raise InputError(
            f"the model is quantized already ({model.quantization.method}, {model.quantization.scheme.name}); "
            "start from the full-precision model"
        )
    if solver_of.needs_calibration and not clips:
        raise InputError(f"method {method} needs a calibration set: give it a few clips of the scenes you care about")

    sites = {name: _as_linear(module) for name, module in quantizable_sites(model).items()}
    solvers = {name: solver_of.start(name, linear) for name, linear in sites.items()}
    if solver_of.needs_calibration:
        observe_inputs(model, clips, {name: solver.observe for name, solver in solvers.items()}, progress)

    quantized = model.sharing_copy()
    for name, solver in tqdm(solvers.items(), desc=f"{method} {scheme.name}", unit="layer", disable=not progress):
        quantized.set_submodule(name, solver.solve(scheme))
    _round_to_float16(quantized)
    quantized.quantization = Quantization(
        scheme=scheme,
        method=method,
        settings=asdict(solver_of),
        calibration={"clips": [clip.record() for clip in clips]} if solver_of.needs_calibration else {},
    )
    return quantized


def _as_linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module


def _round_to_float16(model: VGGT) -> None:
    """Give what isn't quantized float16 values, still in float32; tensors it shares with another model don't change."""
    floats = {
        name: value
        for name, value in model.state_dict().items()
        if value.dtype == torch.float32 and name.rpartition(".")[2] not in FLOAT32_BUFFERS
    }
    rounded = {name: value.half().float() for name, value in floats.items()}
    model.load_state_dict({name: x for name, x in rounded.items() if x.isfinite().all()}, strict=False, assign=True)
