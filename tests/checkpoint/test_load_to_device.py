"""A model goes to its device tensor by tensor, as it is to lie there. The meta device stands for a GPU: what lies there
takes no memory here, so all that is seen on the CPU is on its way."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import quantvggt as qv
from quantvggt.checkpoint import load as module
from quantvggt.core.errors import InputError
from quantvggt.nn.quant_weight import QuantWeight
from tiny import tiny_model


class Made(TorchDispatchMode):
    """here: tensors that ops give on the CPU; there: bytes that are brought to the device."""

    def __init__(self):
        super().__init__()
        self.here, self.there = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, torch.Tensor) and value.device.type == "cpu":
                self.here.append((value.dtype, value.numel()))
            elif func is torch.ops.aten._to_copy.default:
                self.there += value.nbytes
        return out


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("scheme", ["w8a8", "w4a4", "w2a8"])
def test_quantized_weights_are_never_floats_and_nothing_goes_there_twice(tmp_path, monkeypatch, scheme, dtype):
    qv.save(qv.quantize(tiny_model(), scheme, "rtn", rest="w8a8", progress=False), tmp_path / "small")
    made, fill = Made(), module._fill

    def filled(*args):
        with made:
            fill(*args)

    monkeypatch.setattr(module, "_fill", filled)
    model = qv.load(tmp_path / "small", device="meta", dtype=dtype)
    state = model.state_dict()
    assert {value.device.type for value in state.values()} == {"meta"}
    assert made.there == sum(value.nbytes for value in state.values())
    sizes = {x.out_features * x.in_features for x in model.modules() if isinstance(x, QuantWeight)}
    floats = {value.numel() for value in state.values() if value.is_floating_point()}
    assert sizes - floats, "else the next line shows nothing"
    assert not [size for kind, size in made.here if kind.is_floating_point and size in sizes - floats]


def test_a_model_that_does_not_fit_is_said_in_one_line(tmp_path, monkeypatch):
    qv.save(tiny_model(), tmp_path / "model")

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has a total capacity of")

    monkeypatch.setattr(module, "check_values", lambda *args: None)
    monkeypatch.setattr(torch.Tensor, "to", full)
    with pytest.raises(InputError, match=r"model\.safetensors: its 0\.\d GB don't fit .*fewer bits[^\n]*$"):
        qv.load(tmp_path / "model")
