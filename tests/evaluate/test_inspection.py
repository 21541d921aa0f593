"""What is said of each layer, the trunk's and the others'."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import quantvggt as qv
from quantvggt.evaluate.inspection import SiteReport, format_sites, inspect_sites
from quantvggt.models.sites import all_sites, quantizable_sites
from quantvggt.nn.quant_conv import flat_weight
from tiny import tiny_clip, tiny_model


def test_every_quantizable_layer_has_a_line() -> None:
    model = tiny_model()
    small = qv.quantize(model, "w4a4", "rtn", rest="w8a8", progress=False)
    rows = inspect_sites(small, [tiny_clip()], model, progress=False)
    assert [row.name for row in rows] == list(all_sites(model))
    trunk = quantizable_sites(model)
    for row in rows:
        inside = row.name in trunk
        assert row.weight_bits == (4 if inside else 8)
        assert (row.outliers_patch is not None) == (row.outliers_special is not None) == inside
        assert row.name in format_sites(rows)
    (row,) = (row for row in rows if row.name == "depth_head.scratch.output_conv1")
    conv = model.depth_head.scratch.output_conv1
    weight = flat_weight(conv)
    step = weight.abs().amax(1, keepdim=True) / 127
    assert row.shape == tuple(weight.shape)
    assert row.act_bits == 16
    error = ((weight / step).round() * step - weight).norm() / weight.norm()
    assert row.weight_error == pytest.approx(error.item(), rel=1e-4)
    assert row.bytes == weight.numel() + 4 * len(weight) + 4 * torch.numel(conv.bias)


def test_a_float_model_has_no_errors() -> None:
    rows = inspect_sites(tiny_model(), [tiny_clip()], progress=False)
    assert {(row.weight_bits, row.act_bits, row.weight_error) for row in rows} == {(32, 32, None)}
    assert {row.checkpoint_bytes for row in rows} == {None}


@pytest.mark.parametrize("scheme", ["w2a8", "w3a3", "w4a4"])
def test_bytes_of_a_checkpoint_are_those_of_its_tensors(tmp_path: Path, scheme: str) -> None:
    small = qv.quantize(tiny_model(), scheme, "best", [tiny_clip()], rest="w3a8", progress=False)
    file = load_file(qv.save(small, tmp_path / "small") / "model.safetensors")
    for row in inspect_sites(small, [tiny_clip()], progress=False):
        own = {name for name in file if name.rpartition(".")[0] == row.name}
        own -= {f"{row.name}.bias", f"{row.name}.weight_shape"}
        assert row.checkpoint_bytes == sum(file[name].nbytes for name in own), row.name


def test_the_table_has_a_dash_for_what_is_not_known() -> None:
    known = SiteReport("trunk.fc1", (64, 32), 4, 8, 22_500, 20_000, 0.1234, 9.96, 2.0)
    plain = SiteReport("head.conv", (8, 9), 16, 16, 144, None, None, None, None)
    lines = format_sites([known, plain]).splitlines()
    assert lines[2].split() == ["trunk.fc1", "64x32", "4/8", "22.5", "12.34", "10.0", "2.0"]
    assert lines[3].split() == ["head.conv", "8x9", "16/16", "0.1", "-", "-", "-"]
    assert lines[4] == "2 layers, 0.02 MB in memory; the 1 quantized ones take 0.02 MB of a checkpoint, biases aside"
    assert format_sites([plain]).endswith("1 layers, 0.00 MB in memory")
