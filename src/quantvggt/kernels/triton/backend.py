"""The ops on NVIDIA GPUs: where the kernels run, and which steps they take. Triton is imported when one first runs."""

import importlib.util
import os
import platform
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from quantvggt.core.memory import gpu_index
from quantvggt.kernels.contract import Attention, Backend, IntLinear, RotateQuantize
from quantvggt.kernels.triton import proof, tuned
from quantvggt.kernels.triton.launch import on
from quantvggt.kernels.triton.tiles import OLDEST, Chip, linear_tile, scores_tile

MOST_ROTATED = 16384  # channels, which one program holds in registers
MOST_SCORED = 128  # channels of a head with 8-bit queries and keys, likewise

Proof = Callable[[Callable[[Any], Any], torch.device], bool]


def interpreted() -> bool:
    """Do kernels run on the CPU, under Triton's interpreter, for tests?"""
    return os.environ.get("TRITON_INTERPRET") == "1"


class TritonBackend(Backend):
    name = "triton"
    prove: Proof

    def available(self, device: torch.device) -> tuple[bool, str]:
        """The first call for a GPU compiles a kernel, runs it and compares what it gives with the reference."""
        if device.type == "cpu" and interpreted() and _installed():
            return True, "under Triton's interpreter, for tests"
        if device.type != "cuda":
            return False, "NVIDIA GPUs only"
        if not torch.cuda.is_available():
            return False, "PyTorch finds no GPU here"
        return _usable(self, gpu_index(device))

    def chip(self, device: torch.device) -> Chip:
        return tuned.chip(device)


class TritonRotate(TritonBackend):
    OP = RotateQuantize.OP
    prove = staticmethod(proof.rotation_agrees)

    def accepts(self, step: RotateQuantize) -> str | None:
        k = step.x.shape[-1]
        if k > MOST_ROTATED:
            return f"up to {MOST_ROTATED} channels, not {k}"
        return None if step.x.numel() else "there are no rows"

    def run(self, step: RotateQuantize) -> tuple[Tensor, Tensor]:
        from quantvggt.kernels.triton import project, rotate

        q, scale = step.empty()
        with on(step.device):
            if step.rank:
                project.plan(step, q, scale).run()
            rotate.plan(step, q, scale).run()
        return q, scale


class TritonLinear(TritonBackend):
    OP = IntLinear.OP
    prove = staticmethod(proof.products_agree)

    def accepts(self, step: IntLinear) -> str | None:
        if step.out_dtype is torch.float64:
            return "its output is never float64"
        return None if step.q.numel() and len(step.weight) else "there are no rows or no columns"

    def run(self, step: IntLinear) -> Tensor:
        from quantvggt.kernels.triton.linear import plan

        y = step.empty()
        with on(step.device):
            plan(step, y, linear_tile(step, self.chip(step.device))).run()
        return y


class TritonAttention(TritonBackend):
    OP = Attention.OP
    prove = staticmethod(proof.attention_agrees)

    def accepts(self, step: Attention) -> str | None:
        if step.qkv.dtype not in (torch.bfloat16, torch.float16):
            return f"bfloat16 and float16 only, not {str(step.qkv.dtype).removeprefix('torch.')}"
        if not step.qkv.numel():
            return "there are no tokens"
        return None if step.score_bits == 16 else self._refuses_8_bits(step)

    def _refuses_8_bits(self, step: Attention) -> str | None:
        if step.head_size > MOST_SCORED:
            return f"8-bit queries and keys of up to {MOST_SCORED} channels, not {step.head_size}"
        if step.device.type != "cuda":
            return None
        # Proven apart, because few ask for it: what fails here leaves attention with 16 bits as it is.
        works, reason = _proven(proof.scores_agree, self.run, step.device.index)
        return None if works else f"8-bit queries and keys: {reason}"

    def run(self, step: Attention) -> Tensor:
        if step.score_bits == 8:
            from quantvggt.kernels.triton import attention8

            with on(step.device):
                return attention8.run(step, scores_tile(step, self.chip(step.device)))
        from quantvggt.kernels.triton.attention import attend, plan

        prepared = None
        if step.q_weight is not None or step.cosine is not None:
            batch, n, _ = step.qkv.shape
            prepared = step.qkv.new_empty(2, batch, n, step.num_heads, step.head_size)
            with on(step.device):
                plan(step, prepared).run()
        return attend(step, prepared)


@lru_cache
def _usable(backend: TritonBackend, index: int) -> tuple[bool, str]:
    if torch.version.hip:
        return False, "NVIDIA GPUs only, this PyTorch is for AMD's"
    if not _installed():
        hint = "it comes with PyTorch for CUDA" if platform.system() == "Linux" else "there is none for this system"
        return False, f"no Triton ({hint})"
    if interpreted():
        return False, "TRITON_INTERPRET=1 keeps Triton on the CPU"
    capability = torch.cuda.get_device_capability(index)
    if 10 * capability[0] + capability[1] < OLDEST:
        return False, f"compute capability {capability[0]}.{capability[1]}: needs {OLDEST // 10}.{OLDEST % 10}"
    agrees, reason = _proven(backend.prove, backend.run, index)
    return agrees, reason or f"compute capability {capability[0]}.{capability[1]}"


@lru_cache
def _proven(prove: Proof, run: Callable[[Any], Any], index: int) -> tuple[bool, str]:
    """Does it compile on this GPU and give the reference's results? And if not, why."""
    try:
        with torch.no_grad(), torch.autocast("cuda", enabled=False):
            agrees = prove(run, torch.device("cuda", index))
    except Exception as error:  # whatever keeps Triton from compiling here: no C compiler, an old driver
        return False, f"Triton fails here ({type(error).__name__}: {error})".split("\n")[0]
    return agrees, "" if agrees else proof.REASON


def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None
