"""The scheme w8a8-fp8 from a float model to a checkpoint: what takes it, what refuses it, and what it costs."""

from pathlib import Path

import pytest
import torch

from quantvggt.calibrate.methods import METHODS, make_method
from quantvggt.calibrate.pipeline import quantize
from quantvggt.checkpoint.load import load
from quantvggt.checkpoint.locate import stored_bytes
from quantvggt.checkpoint.save import checkpoint_bytes, save
from quantvggt.core.errors import InputError
from quantvggt.core.float8 import FLOAT8
from quantvggt.models import build
from quantvggt.models.sites import all_sites, quantizable_sites
from quantvggt.nn.empty import empty_layer
from quantvggt.nn.quant_conv import QuantConv2d
from quantvggt.nn.tensors import optional_shapes
from tiny import tiny_clip, tiny_model

SCHEME = "w8a8-fp8"
CLIPS = [tiny_clip("a")]


@pytest.mark.filterwarnings("ignore:scheme w8a8-fp8 is for NVIDIA GPUs")
@pytest.mark.parametrize("method", ["rtn", "smoothquant"])
def test_a_whole_model_and_its_exact_size(method, tmp_path: Path) -> None:
    model = tiny_model()
    small = quantize(model, SCHEME, method, CLIPS, rest=SCHEME, progress=False)
    for name, site in all_sites(small).items():
        if isinstance(site, QuantConv2d):
            assert (site.scheme.name, site.weight.dtype) == ("w8a16", torch.int8), name
        else:
            assert (site.scheme.name, site.weight.dtype) == (SCHEME, FLOAT8), name
    first = small.get_submodule("aggregator.frame_blocks.0.attn.qkv")
    assert (first.input_smooth is None) == (method == "rtn")

    images = CLIPS[0].images
    with torch.inference_mode():
        exact, ours = model(images), small(images)
    assert all(value.isfinite().all() for value in ours.values())
    off = (ours["depth"] - exact["depth"]).norm() / exact["depth"].norm()
    assert 1e-5 < off < 0.1

    folder = save(small, tmp_path / "small")
    loaded = load(folder)
    assert loaded.quantization == small.quantization
    with torch.device("meta"):
        sketch = build(model.config)
    for name, site in all_sites(small).items():
        empty = empty_layer(all_sites(sketch)[name], site.scheme, optional_shapes(dict(site.named_buffers())), "meta")
        sketch.set_submodule(name, empty)
    sketch.quantization = small.quantization
    assert checkpoint_bytes(sketch, torch.float16) == stored_bytes(folder)


def test_single_layers_may_be_float8(tmp_path: Path) -> None:
    small = quantize(tiny_model(), "w4a4", "rtn", site_schemes={"*.mlp.fc2": SCHEME}, progress=False)
    schemes = {name: site.scheme.name for name, site in quantizable_sites(small).items()}
    assert {scheme for name, scheme in schemes.items() if name.endswith("fc2")} == {SCHEME}
    assert {scheme for name, scheme in schemes.items() if not name.endswith("fc2")} == {"w4a4"}


@pytest.mark.parametrize("method", [name for name, each in METHODS.items() if not each.takes_float8])
@pytest.mark.parametrize("where", ["scheme", "rest", "site_schemes"])
def test_methods_that_round_to_integers_say_so(method, where) -> None:
    chosen = {"scheme": "w4a4", "rest": None, "site_schemes": None}
    chosen[where] = {"*.qkv": SCHEME} if where == "site_schemes" else SCHEME
    words = f"method {method} rounds to integers, which w8a8-fp8 hasn't; use rtn or smoothquant"
    with pytest.raises(InputError, match=words):
        quantize(tiny_model(), method=method, clips=CLIPS, progress=False, **chosen)


def test_a_budget_is_of_integers() -> None:
    from quantvggt.calibrate.budget import choose
    from quantvggt.core.scheme import Scheme

    with pytest.raises(InputError, match="integers of 4 or 8 bits; leave -fp8 out of w8a8-fp8"):
        choose(tiny_model(), Scheme.parse(SCHEME), make_method("rtn"), CLIPS, 10**9, checkpoint_bytes, progress=False)
