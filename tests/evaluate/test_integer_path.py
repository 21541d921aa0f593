"""A whole model on integer kernels gives what its fake-quantized twin gives: the same numbers in float64 products."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quantvggt as qv
from quantvggt.evaluate.run import evaluate
from quantvggt.models import VGGT
from quantvggt.models.sites import all_sites
from quantvggt.nn.quant_linear import QuantLinear
from quantvggt.scenes.calibration import calibration_clips


class FakeQuantized(nn.Module):
    """Rounds as `layer` does, then multiplies the dequantized numbers as floats: what published PTQ code runs."""

    frame_tokens: int | None = None

    def __init__(self, layer: QuantLinear) -> None:
        super().__init__()
        self.layer = layer
        self.weight = layer.integer_weight().double() * layer.weight_scale.double()
        if layer.branch is not None:
            beside = layer.branch.weight.double() * layer.branch.scale.double()
            self.weight = torch.cat((self.weight, beside), 1)

    def forward(self, x: Tensor) -> Tensor:
        self.layer.frame_tokens = self.frame_tokens
        y = self.layer.rounded_input(x).double() @ self.weight.t()
        return (y if self.layer.bias is None else y + self.layer.bias.double()).to(x.dtype)


def _twin(model: VGGT) -> VGGT:
    twin = copy.deepcopy(model)
    for name, site in all_sites(twin).items():
        if isinstance(site, QuantLinear):
            twin.set_submodule(name, FakeQuantized(site))
    return twin


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("scheme", "rest"), [("w8a8", None), ("w8a8", "w8a8"), ("w4a4", None), ("w4a4", "w4a8")])
def test_answers_agree_to_rounding(scheme: str, rest: str | None, dtype: torch.dtype) -> None:
    clips = calibration_clips("synthetic", 2, 3, 112)
    model = qv.quantize(qv.load("vggt-nano"), scheme, "best", clips, rest=rest, progress=False).to(dtype)
    with torch.inference_mode():
        got, expected = model(clips[0].images), _twin(model)(clips[0].images)
    # Single roundings of intermediate results move a few integers that lie on ties, by a whole step, and 4 bits have
    # large ones. In bfloat16 the twin also rounds between the steps that the kernels take at once.
    bound = 0.05 if dtype == torch.bfloat16 else 0.01 if scheme == "w4a4" else 2e-3
    for key, value in expected.items():
        assert (got[key] - value).abs().mean() < bound * value.abs().mean(), key


def test_metrics_agree() -> None:
    model = qv.quantize(qv.load("vggt-nano"), "w4a4", "best", calibration_clips("synthetic", 2, 3, 112), progress=False)
    scenes = calibration_clips("synthetic", 6, 4, 112)[2:]
    about: dict[str, Any] = {"name": "", "method": "", "scheme": "", "seed": 0, "checkpoint_bytes": 0}
    rows = [evaluate(each, scenes, **about, progress=False) for each in (model, _twin(model))]
    # The integers on ties turn a camera by some tenths of a degree, and 24 pairs of cameras count whole degrees of 30.
    for key, bound in (("auc30", 15 / (24 * 30)), ("depth_absrel", 2e-3), ("point_error", 2e-3)):
        assert rows[0][key] == pytest.approx(rows[1][key], abs=bound), key
