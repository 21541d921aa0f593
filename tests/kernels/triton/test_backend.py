"""Where the kernels say they can run and why not, and that nothing needs Triton before one does."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quantvggt.kernels import ops, registry  # noqa: F401 - the ops register themselves
from quantvggt.kernels.contract import Attention, IntLinear, RotateQuantize
from quantvggt.kernels.triton import backend as module
from quantvggt.kernels.triton import proof
from quantvggt.kernels.triton.backend import TritonAttention, TritonLinear, TritonRotate
from quantvggt.kernels.triton.tiles import CHIPS, chip_of

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
BACKENDS = [TritonRotate, TritonLinear, TritonAttention]


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that this machine doesn't have, as far as asking about it goes."""

    def make(capability=(9, 0), agrees=True, installed=True):
        module._usable.cache_clear()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
        monkeypatch.setattr(module, "_installed", lambda: installed)

        def prove(run, device):
            if isinstance(agrees, Exception):
                raise agrees
            return agrees

        for kind in BACKENDS:
            monkeypatch.setattr(kind, "prove", staticmethod(prove))

    yield make
    module._usable.cache_clear()


@pytest.mark.parametrize("kind", BACKENDS)
def test_what_keeps_them_from_a_gpu_is_said(gpu, kind):
    assert kind().available(CPU) == (False, "NVIDIA GPUs only")
    if not torch.cuda.is_available():
        assert kind().available(GPU) == (False, "PyTorch finds no GPU here")
    gpu()
    assert kind().available(GPU) == (True, "compute capability 9.0")
    gpu(capability=(7, 5))
    assert kind().available(GPU) == (False, "compute capability 7.5: needs 8.0")
    gpu(installed=False)
    can, reason = kind().available(GPU)
    assert not can
    assert reason.startswith("no Triton (")
    gpu(agrees=False)
    assert kind().available(GPU) == (False, proof.REASON)
    gpu(agrees=RuntimeError("Failed to find C compiler.\nPlease specify via CC"))
    assert kind().available(GPU) == (False, "Triton fails here (RuntimeError: Failed to find C compiler.")


def test_amd_gpus_are_refused(gpu, monkeypatch):
    gpu()
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert TritonLinear().available(GPU) == (False, "NVIDIA GPUs only, this PyTorch is for AMD's")


def test_steps_that_they_do_not_take():
    def empty(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    q, weight, scale = empty(4, 8, dtype=torch.int8), empty(6, 8, dtype=torch.int8), empty(4)
    linear = TritonLinear()
    assert linear.accepts(IntLinear(q, scale, weight, empty(6), None, torch.bfloat16)) is None
    assert "float64" in linear.accepts(IntLinear(q, scale, weight, empty(6), None, torch.float64))
    assert "no rows" in linear.accepts(IntLinear(q[:0], scale[:0], weight, empty(6), None, torch.float32))
    rotate = TritonRotate()
    assert rotate.accepts(RotateQuantize(empty(3, 8), None, None, None, 8)) is None
    assert "no rows" in rotate.accepts(RotateQuantize(empty(0, 8), None, None, None, 8))
    assert "channels" in rotate.accepts(RotateQuantize(empty(1, 1 << 15), None, None, None, 8))
    attention, rest = TritonAttention(), (2, None, None, None, None, 0.0, None, None)
    assert attention.accepts(Attention(empty(1, 3, 24, dtype=torch.bfloat16), *rest)) is None
    assert "not float32" in attention.accepts(Attention(empty(1, 3, 24), *rest))
    assert "no tokens" in attention.accepts(Attention(empty(1, 0, 24, dtype=torch.float16), *rest))


def step_in_8_bits(d=64, device="meta"):
    qkv = torch.empty(1, 3, 3 * d, dtype=torch.bfloat16, device=device)
    return Attention(qkv, 1, None, None, None, None, 0.0, None, None, score_bits=8)


def test_8_bit_queries_and_keys_are_for_heads_that_fit():
    attention = TritonAttention()
    assert attention.accepts(step_in_8_bits(128)) is None
    assert attention.accepts(step_in_8_bits(129)) == "8-bit queries and keys of up to 128 channels, not 129"


class OnGpu:
    """A step on a GPU that this machine doesn't have, as far as asking about it goes."""

    def __init__(self, bits):
        self.qkv, self.score_bits, self.head_size, self.device = step_in_8_bits().qkv, bits, 64, GPU


def test_8_bit_queries_and_keys_that_fail_cost_nothing_else(gpu, monkeypatch):
    def wrong(run, device):
        raise RuntimeError("ptxas died")

    gpu()
    monkeypatch.setattr(proof, "scores_agree", wrong)
    attention = TritonAttention()
    assert attention.available(GPU) == (True, "compute capability 9.0")
    assert attention.accepts(OnGpu(16)) is None
    assert attention.accepts(OnGpu(8)) == "8-bit queries and keys: Triton fails here (RuntimeError: ptxas died)"
    monkeypatch.setattr(proof, "scores_agree", lambda run, device: False)
    assert attention.accepts(OnGpu(8)) == f"8-bit queries and keys: {proof.REASON}"
    monkeypatch.setattr(proof, "scores_agree", lambda run, device: True)
    assert attention.accepts(OnGpu(8)) is None


def test_chips_that_are_not_known_are_taken_for_their_elders():
    assert chip_of(87) is CHIPS[86]
    assert chip_of(103) is CHIPS[100]
    assert chip_of(121) is CHIPS[120]


def test_they_are_asked_right_before_the_reference():
    rows = registry.report()
    has_kernels = {"rotate_quantize", "int_linear", "attention"}
    for op, step in {(row.op, row.step) for row in rows if row.op in has_kernels}:
        names = [row.backend for row in rows if (row.op, row.step) == (op, step)]
        assert names[-2:] == ["triton", "reference"]


WITHOUT_TRITON = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "triton" or name.startswith("triton."):
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Refuse())
import torch
import quantvggt as qv
model = qv.load("vggt-nano")
small = qv.quantize(model, "w4a8", "rtn", progress=False)
with torch.inference_mode():
    print(small(torch.rand(1, 1, 3, 56, 56))["depth"].isfinite().all().item(), "triton" in sys.modules)
"""


def test_models_run_without_triton():
    assert _run(WITHOUT_TRITON) == "True False"


def test_importing_the_ops_does_not_import_triton():
    assert importlib.util.find_spec("triton") is not None, "the tests need it: make setup"
    assert _run("import sys, quantvggt.kernels.ops; print('triton' in sys.modules)") == "False"


def _run(code: str) -> str:
    source = str(Path(module.__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": source}
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    ).stdout.strip()
