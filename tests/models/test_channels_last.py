"""Dense heads in 16 bits: maps and weights lie as GPUs' convolutions want them, channels last, from the tokens to the
answers."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import quantvggt as qv
from families import FAMILIES


class Convolutions(TorchDispatchMode):
    """found: input and weight of each."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.found.append((args[0], args[1]))
        return func(*args, **(kwargs or {}))


def last(x):
    return x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("rest", [None, "w4a8"])
@pytest.mark.parametrize("family", ["vggt", "da3"])  # those with the head of models/dpt
def test_maps_lie_channels_last(tmp_path, family, rest):
    qv.save(qv.quantize(FAMILIES[family](), "w4a8", "rtn", rest=rest, progress=False), tmp_path / "small")
    model = qv.load(tmp_path / "small", dtype=torch.bfloat16)
    patch = model.patch_size
    images = torch.rand(1, 2, 3, 2 * patch, 3 * patch).bfloat16()
    with torch.no_grad():
        features = model.encode(images)
        with Convolutions() as watch:
            model.read(features, images, heads=("depth",))
    assert len(watch.found) > 5
    assert [tuple(x.shape) for x, _ in watch.found if not last(x)] == []
    if (family, rest) == ("vggt", "w4a8"):  # all of its head is quantized, whose weights are made as they have to lie
        assert [tuple(weight.shape) for _, weight in watch.found if not last(weight)] == []


@pytest.mark.parametrize("family", ["vggt", "da3", "pi3x"])  # those with convolutions in their heads
def test_float_weights_are_laid_out_once_on_the_way_to_a_gpu(tmp_path, family):
    """The meta device, whose tensors have strides and no numbers, stands for it."""
    qv.save(FAMILIES[family](), tmp_path / "model")
    here, there = (qv.load(tmp_path / "model", torch.bfloat16, device).state_dict() for device in ("cpu", "meta"))
    weights = [name for name, value in there.items() if value.ndim == 4]
    assert len(weights) > 5
    assert [name for name in weights if not last(there[name])] == []
    assert all(here[name].is_contiguous() for name in weights), "a CPU has an order of its own"
