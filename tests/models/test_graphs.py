"""The trunk as a CUDA graph, without a GPU: a recorder in its place runs the recorded ops again, on the same tensors,
as a replay does."""

import copy
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import quantvggt as qv
from families import FAMILIES
from quantvggt.kernels import registry
from quantvggt.models import graphs
from tiny import CONFIG, tiny_clip, tiny_model

DINO = replace(CONFIG, patch_embed="dinov2_vits14_reg", embed_dim=384, num_heads=6)
MODELS = {**FAMILIES, "dinov2": lambda: tiny_model(DINO)}


WAITING = ("local_scalar", "nonzero", "unique", "masked_select")
"""Ops whose result the host has to know: a number, or a shape."""


class Recorder(TorchDispatchMode):
    """In place of torch.cuda.CUDAGraph."""

    made = 0

    def __init__(self):
        super().__init__()
        self.calls, self.replays = [], 0
        Recorder.made += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(name in str(func) for name in WAITING), "the host would wait for the GPU"
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        self.replays += 1
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for kept, new in zip(tree_iter(out), tree_iter(again), strict=True):
                if isinstance(kept, torch.Tensor) and kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)


@contextmanager
def capturing(recorder, device):
    with recorder:
        yield


@pytest.fixture
def gpu(monkeypatch):
    """A GPU, as far as graphs ask; gives how many were captured."""
    graphs._kept.clear()
    monkeypatch.setattr(Recorder, "made", 0)
    monkeypatch.setattr(graphs, "_on_gpu", lambda images: True)
    monkeypatch.setenv(graphs.ENVIRONMENT, "1")
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(graphs, "gpu_available_bytes", lambda device: 10**12)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorder)
    monkeypatch.setattr(graphs, "capture", capturing)
    yield lambda: Recorder.made
    graphs._kept.clear()


@pytest.fixture(scope="module")
def model():
    return qv.quantize(tiny_model(), "w4a8", "rtn", progress=False)


def clips(count, frames=2):
    return [tiny_clip(f"clip {index}", frames).images[None] for index in range(count)]


def same(got, expected):
    assert torch.equal(got.depth, expected.depth)
    assert torch.equal(got.extrinsics, expected.extrinsics)


def test_a_shape_that_comes_again_is_captured_and_then_replayed(gpu, model):
    with torch.inference_mode():
        shown = clips(5)
        expected = [model.read(model.encode(images), images) for images in shown]
        answers = []
        for images, captured in zip(shown, (0, 1, 1, 1, 1), strict=True):
            answers.append(model.answers(images))
            assert gpu() == captured
        (made,) = graphs._kept[model].passes.values()
        assert made.graph.replays == 4, "one of them to see whether it gives the same"
        for got, each in zip(answers, expected, strict=True):
            same(got, each)


def test_features_outlive_the_next_replay(gpu, model):
    with torch.inference_mode():
        first, second, third = clips(3)
        model.answers(first), model.answers(first)
        kept = graphs.encode(model, second)
        graphs.encode(model, third)
        assert all(torch.equal(kept[layer], each) for layer, each in model.encode(second).items())


def test_another_shape_precision_or_attention_is_another_pass(gpu, model):
    two, three = clips(1)[0], clips(1, frames=3)[0]
    own = copy.deepcopy(model)
    with torch.inference_mode():
        for images in (two, three, two, three):
            own.answers(images)
        assert gpu() == 2
        own.attention = "fast"
        same(own.answers(two), own.read(own.encode(two), two))
        registry.force("reference")
        try:
            own.answers(two)
        finally:
            registry.force(None)
        assert gpu() == 2
    assert len(graphs._kept[own].passes) == 4


@pytest.mark.parametrize("how", ["replaced", "written into"])
def test_other_weights_are_captured_anew(gpu, model, how):
    own = copy.deepcopy(model)
    (images,) = clips(1)
    with torch.inference_mode():
        own.answers(images), own.answers(images)
        before = own.answers(images)
        norm = own.aggregator.global_blocks[0].norm1
        if how == "replaced":
            norm.weight = torch.nn.Parameter(3 * norm.weight, requires_grad=False)
        else:
            norm.weight.mul_(3)
        after = own.answers(images)
        assert gpu() == 1
        same(after, own.read(own.encode(images), images))
        assert not torch.equal(before.depth, after.depth)


@pytest.mark.parametrize("why", ["gradients", "a hook", "autocast", "the environment", "many frames", "memory", "CPU"])
def test_who_gets_no_graph(gpu, model, monkeypatch, why):
    own = copy.deepcopy(model)
    (images,) = clips(1)
    around = torch.autocast("cpu", torch.bfloat16) if why == "autocast" else nullcontext()
    if why == "a hook":
        own.aggregator.global_blocks[1].attn.qkv.register_forward_pre_hook(lambda module, inputs: None)
    elif why == "the environment":
        monkeypatch.delenv(graphs.ENVIRONMENT)
    elif why == "many frames":
        monkeypatch.setattr(graphs, "MOST_PATCHES", 49)
    elif why == "memory":
        monkeypatch.setattr(graphs, "gpu_available_bytes", lambda device: 10**6)
    elif why == "CPU":
        monkeypatch.undo()
    with torch.set_grad_enabled(why == "gradients"), around, warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            own.answers(images)
    assert gpu() == 0


def test_a_capture_that_fails_is_told_once_and_costs_nothing(gpu, model, monkeypatch):
    @contextmanager
    def failing(recorder, device):
        yield
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCUDA kernel errors might")

    monkeypatch.setattr(graphs, "capture", failing)
    own = copy.deepcopy(model)
    two, three = clips(1)[0], clips(1, frames=3)[0]
    with torch.inference_mode():
        expected = own.read(own.encode(two), two)
        own.answers(two)
        with pytest.warns(UserWarning, match=r"kernel by kernel.*\(RuntimeError: CUDA error: operation not permitted"):
            same(own.answers(two), expected)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for images in (two, three, three):
                got = own.answers(images)
            same(got, own.read(own.encode(three), three))
    assert gpu() == 1


def test_a_graph_that_does_not_read_its_images_is_found_out(gpu, model, monkeypatch):
    monkeypatch.setattr(Recorder, "replay", lambda self: None)
    own = copy.deepcopy(model)
    (images,) = clips(1)
    with torch.inference_mode():
        own.answers(images)
        with pytest.warns(UserWarning, match="other features"):
            same(own.answers(images), own.read(own.encode(images), images))


@pytest.mark.parametrize("family", ["vggt", "da3", "pi3"])
def test_heads_know_the_frames_of_a_trunk_that_is_replayed(gpu, family):
    """Special tokens have bits of their own, in the layers behind the trunk too."""
    own = qv.quantize(
        MODELS[family](),
        "w4a4-s8",
        "rtn",
        rest="w4a8",
        site_schemes={"*decoder*": "w4a4-s8"} if family == "pi3" else None,
        progress=False,
    )
    with torch.inference_mode():
        small, large = (torch.rand(1, 2, 3, side, 2 * own.patch_size) for side in (own.patch_size, 3 * own.patch_size))
        expected = own.read(own.encode(small), small)
        for images in (small, small, large, small):
            got = own.answers(images)
    assert gpu() == 1
    for name, value in vars(expected).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(got, name), value), name


def test_no_more_than_a_few_are_kept(gpu, model):
    own = copy.deepcopy(model)
    with torch.inference_mode():
        for width in range(14, 14 * 7, 14):
            images = torch.rand(1, 1, 3, 14, width)
            own.answers(images), own.answers(images)
    assert len(graphs._kept[own].passes) == graphs.MOST_KEPT


class Boundaries(TorchDispatchMode):
    """Ops between the host's memory and the GPU's, and those where the host waits for a number: no capture has them."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        values = [x for x in tree_iter((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        if len({x.device.type for x in values}) > 1 or any(name in str(func) for name in WAITING):
            self.found.append(str(func))
        return out


class FromNumbers(TorchFunctionMode):
    """Tensors made of Python's numbers, which lie with the host first."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("scheme", "attention"), [("w4a8", "exact"), ("w4a8", "fast"), ("w8a8-fp8", "exact")])
@pytest.mark.parametrize("family", MODELS)
def test_trunks_stay_on_the_gpu(family, scheme, attention):
    """The meta device stands for the GPU. What is kept of a shape, its first pass brings there."""
    small = qv.quantize(MODELS[family](), scheme, "rtn", progress=False).to("meta")
    small.attention = attention
    images = torch.empty(1, 2, 3, 2 * small.patch_size, 3 * small.patch_size, device="meta")
    found = []
    with torch.inference_mode():
        small.encode(images)
        with Boundaries(found), FromNumbers(found):
            small.encode(images)
    assert found == []


def test_thinned_attention_is_captured_too(gpu, model):
    own = copy.deepcopy(model)
    own.attention = "fast"
    with torch.inference_mode():
        shown = clips(4)
        expected = [own.read(own.encode(images), images) for images in shown]
        for images, each in zip(shown, expected, strict=True):
            same(own.answers(images), each)
    assert gpu() == 1


def test_a_quantized_block_compiles_whole_with_the_same_bits(model):
    """So torch.compile may have it too: each op says what it returns without being run."""
    block = model.aggregator.frame_blocks[0]
    x = torch.randn(2, 30, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), block(x))
