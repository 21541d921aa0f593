"""The ops on this CPU against what PyTorch has, on VGGT-1B's shapes.

    python benchmarks/kernels_cpu.py [--rows 2082] [--tokens 1041,4164,10410] [--repeats 9] [--threads 2]

int_linear with 8- and 4-bit weights and bfloat16 output against torch's linear in float32 and bfloat16 and its bare
integer product (`torch._int_mm`, int32 output, no scales); rotate_quantize on bfloat16 tokens against the reference,
and with shift, presmooth and special tokens of their own width against PyTorch doing those steps around it; what a
block has around its layers (LayerNorm before; GELU, or gain and residual, behind), in the ops' one pass against
PyTorch's modules around them; attention in bfloat16 with LayerNorm and rotary embedding of queries and keys against the
reference, and against PyTorch's bare attention without those steps on queries, keys and values that already lie as it
likes them. On a CPU with AVX512-VNNI or AMX-INT8, products are also compared with the peak of each: threads times what
one does in a loop that touches nothing but registers, in the same rounds (`peak_vnni.cpp` and `peak_amx.cpp`, compiled
for the run); elsewhere a line says why not.
Each round runs every side once, in turn, so that all sides meet the same noise; a row holds medians over the rounds.
The last line is JSON.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F

from quantvggt.core.machine import processor
from quantvggt.core.packing import pack_int4
from quantvggt.core.rotation import random_signs
from quantvggt.kernels import measured, reference, registry
from quantvggt.kernels.contract import Attention, RotateQuantize
from quantvggt.kernels.cpu import build
from quantvggt.kernels.cpu.paths import LinearPath
from quantvggt.kernels.ops import attention, int_linear, rotate_quantize
from quantvggt.models.vggt.aggregator import NUM_SPECIAL
from quantvggt.nn.rope import rope_tables

SHAPES = {"qkv": (1024, 3072), "proj": (1024, 1024), "fc1": (1024, 4096), "fc2": (4096, 1024)}
FRAME_TOKENS = 1041  # of 518x392, 28 x 37 patches
HEADS, HEAD_SIZE = 16, 64
CPU = torch.device("cpu")


def medians(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of each side, the first round (warm-up) left out."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def linear_row(site: str, m: int, repeats: int) -> dict[str, object]:
    k, n = SHAPES[site]
    g = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=g) for shape in ((m, k), (n, k), (n,)))
    x16, weight16, bias16 = x.bfloat16(), weight.bfloat16(), bias.bfloat16()
    q, q_weight = (torch.randint(-128, 128, (rows, k), dtype=torch.int8, generator=g) for rows in (m, n))
    packed = pack_int4(torch.randint(-8, 8, (n, k), dtype=torch.int8, generator=g))
    row_scale, weight_scale = torch.rand(m, 1, generator=g), torch.rand(n, 1, generator=g)
    sides: dict[str, Callable[[], object]] = {
        "w8": lambda: int_linear(q, row_scale, q_weight, weight_scale, bias, torch.bfloat16),
        "w4": lambda: int_linear(q, row_scale, packed, weight_scale, bias, torch.bfloat16),
        "int_mm": lambda: torch._int_mm(q, q_weight.t()),
        "bfloat16": lambda: F.linear(x16, weight16, bias16),
        "float32": lambda: F.linear(x, weight, bias),
    }
    loops = peaks()
    seconds = medians(sides | {peak.key: loop for peak, loop in loops.items()}, repeats)
    speedups = ratios("w8", seconds, ("int_mm", "bfloat16", "float32"))
    for peak in loops:
        most = torch.get_num_threads() * peak.operations / seconds.pop(peak.key)
        speedups[peak.key] = 2 * m * n * k / seconds["w8"] / most
    shares = "".join(f" {100 * speedups[peak.key]:9.0f}%" if peak in loops else f" {'-':>10}" for peak in PEAKS)
    say(f"{site:10} {k:5} {n:5}" + "".join(f" {2e-9 * m * n * k / seconds[side]:9.0f}" for side in sides) + shares)
    return {"op": "int_linear", "site": site, "m": m, "k": k, "n": n, "seconds": seconds, **speedups}


def rotate_row(k: int, m: int, repeats: int) -> dict[str, object]:
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(0)).bfloat16()
    signs, smooth = random_signs(k, 0), torch.rand(k) + 0.5
    sides: dict[str, Callable[[], object]] = {
        "native": lambda: rotate_quantize(x, signs, smooth, None, 8),
        "reference": lambda: reference.rotate_quantize(RotateQuantize(x, signs, smooth, None, 8)),
    }
    seconds = medians(sides, repeats)
    say(f"{k:10}" + "".join(f" {1e6 * seconds[side] / m:12.2f}" for side in sides))
    speedups = ratios("native", seconds, ("reference",))
    return {"op": "rotate_quantize", "m": m, "k": k, "seconds": seconds, **speedups}


def fused_row(k: int, frame: int, frames: int, repeats: int) -> dict[str, object]:
    """4-bit tokens shifted and divided first, each frame's special tokens with 8 bits: in one call and in steps."""
    x = torch.randn(frames * frame, k, generator=torch.Generator().manual_seed(0)).bfloat16()
    signs, shift, presmooth = random_signs(k, 0), torch.randn(k), torch.rand(k) + 0.5

    def steps() -> torch.Tensor:
        y = (x.float() - shift) / presmooth
        q, scale = rotate_quantize(y, signs, None, None, 4)
        special = y.view(frames, frame, k)[:, :NUM_SPECIAL].contiguous()
        q_special, scale_special = rotate_quantize(special, signs, None, None, 8)
        q.view(frames, frame, k)[:, :NUM_SPECIAL] = q_special
        scale.view(frames, frame, 1)[:, :NUM_SPECIAL] = scale_special
        return q

    sides: dict[str, Callable[[], object]] = {
        "fused": lambda: rotate_quantize(x, signs, None, None, 4, shift, presmooth, frame, NUM_SPECIAL, 8),
        "steps": steps,
    }
    seconds = medians(sides, repeats)
    say(f"{k:10}" + "".join(f" {1e6 * seconds[side] / len(x):12.2f}" for side in sides))
    speedups = ratios("fused", seconds, ("steps",))
    return {"op": "rotate_quantize", "m": len(x), "frame_tokens": frame, "k": k, "seconds": seconds, **speedups}


def attention_row(tokens: int, repeats: int) -> dict[str, object]:
    g = torch.Generator().manual_seed(0)
    qkv = torch.randn(1, tokens, 3 * HEADS * HEAD_SIZE, generator=g).bfloat16()
    weight, bias = torch.rand(HEAD_SIZE, generator=g).bfloat16() + 0.5, torch.randn(HEAD_SIZE, generator=g).bfloat16()
    norms = (weight, bias, weight, bias)
    rope = rope_tables(28, 37, NUM_SPECIAL, HEAD_SIZE, CPU)
    qkv16 = qkv.unflatten(-1, (3, HEADS, HEAD_SIZE)).permute(2, 0, 3, 1, 4).contiguous()
    qkv32 = qkv16.float()
    sides: dict[str, Callable[[], object]] = {
        "native": lambda: attention(qkv, HEADS, *norms, 1e-5, *rope),
        "reference": lambda: reference.attention(Attention(qkv, HEADS, *norms, 1e-5, *rope)),
        "bfloat16": lambda: F.scaled_dot_product_attention(*qkv16),
        "float32": lambda: F.scaled_dot_product_attention(*qkv32),
    }
    seconds = medians(sides, repeats)
    operations = 4 * tokens**2 * HEADS * HEAD_SIZE
    say(f"{tokens:10}" + "".join(f" {1e-9 * operations / seconds[side]:9.0f}" for side in sides))
    return {"op": "attention", "n": tokens, "seconds": seconds, **ratios("native", seconds, list(sides)[1:])}


def norm_row(m: int, repeats: int) -> dict[str, object]:
    """LayerNorm before quantizing 1024 channels of bfloat16."""
    x, norm = torch.randn(m, 1024).bfloat16(), torch.nn.LayerNorm(1024).bfloat16()
    signs, weight, bias = random_signs(1024, 0), norm.weight.float(), norm.bias.float()
    sides: dict[str, Callable[[], object]] = {
        "fused": lambda: rotate_quantize(x, signs, None, None, 8, norm_weight=weight, norm_bias=bias),
        "steps": lambda: rotate_quantize(norm(x), signs, None, None, 8),
        "no_norm": lambda: rotate_quantize(x, signs, None, None, 8),
    }
    seconds = medians(sides, repeats)
    say(f"{1024:10}" + "".join(f" {1e6 * seconds[side] / m:12.2f}" for side in sides))
    return {"op": "rotate_quantize", "norm": True, "m": m, "seconds": seconds, **ratios("fused", seconds, ("steps",))}


def epilogue_row(site: str, m: int, repeats: int) -> dict[str, object]:
    """What follows a layer in a block, bfloat16: GELU behind fc1, gain and residual behind proj and fc2."""
    k, n = SHAPES[site]
    g = torch.Generator().manual_seed(0)
    q, weight = (torch.randint(-128, 128, (rows, k), dtype=torch.int8, generator=g) for rows in (m, n))
    row_scale, weight_scale = torch.rand(m, 1, generator=g), torch.rand(n, 1, generator=g)
    bias, gain, residual = torch.randn(n), torch.rand(n), torch.randn(m, n).bfloat16()
    gain16 = gain.bfloat16()
    args = q, row_scale, weight, weight_scale, bias, torch.bfloat16
    sides: dict[str, Callable[[], object]] = {"bare": lambda: int_linear(*args)}
    if site == "fc1":
        sides |= {"fused": lambda: int_linear(*args, gelu=True), "steps": lambda: F.gelu(int_linear(*args))}
    else:
        sides["fused"] = lambda: int_linear(*args, gain=gain, residual=residual)
        sides["steps"] = lambda: residual + gain16 * int_linear(*args)
    seconds = medians(sides, repeats)
    say(f"{site:10}" + "".join(f" {1e6 * seconds[side] / m:12.2f}" for side in ("fused", "steps", "bare")))
    return {"op": "int_linear", "epilogue": site, "m": m, "seconds": seconds, **ratios("fused", seconds, ("steps",))}


@dataclass(frozen=True)
class Peak:
    """A loop on nothing but registers: the path whose instructions it uses, its JSON key, its source and flags, and how
    many operations are to be timed."""

    path: str
    key: str
    source: str
    flags: tuple[str, ...]
    operations: int


PEAKS = (
    Peak("avx512vnni", "of_peak", "peak_vnni.cpp", ("-mavx512f", "-mavx512vnni"), 2_000_000_000),
    Peak("amx", "of_amx_peak", "peak_amx.cpp", ("-mamx-tile", "-mamx-int8"), 20_000_000_000),
)


@lru_cache
def peaks() -> dict[Peak, Callable[[], None]]:
    """Those that this CPU can, each on one thread. Asking for a path has the system let this process use it."""
    found = {}
    for peak in PEAKS:
        can, reason = LinearPath(peak.path).available(CPU)
        if can:
            found[peak] = compiled(peak)
        else:
            say(f"no peak of {build.INSTRUCTIONS[peak.path]}: {reason}")
    return found


def compiled(peak: Peak) -> Callable[[], None]:
    flags = ["-std=c++17", "-O2", "-shared", "-fPIC", "-pthread", f"-I{build.SOURCES}", *peak.flags]
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/peak.so"
        source = str(Path(__file__).with_name(peak.source))
        subprocess.run([*build._compiler(), *flags, source, "-o", file], check=True)
        native = ctypes.CDLL(file)
    return lambda: native.peak(ctypes.c_int64(peak.operations))


def ratios(ours: str, seconds: dict[str, float], baselines: Sequence[str]) -> dict[str, float]:
    return {f"speedup_over_{name}": seconds[name] / seconds[ours] for name in baselines}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=2082, help="tokens; 2082 are two frames of 518x392")
    parser.add_argument("--tokens", default="1041,4164,10410", help="of attention: whole frames of 1041")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ[measured.ENVIRONMENT] = "0"  # native kernels are to be seen here, be they the quickest or not
    backends = {op: registry.select(op, CPU).name for op in ("int_linear", "rotate_quantize", "attention")}
    say(f"{processor()}, {args.threads} threads, {backends}, torch {torch.__version__}")
    peaks()
    say(
        f"GOP/s, {args.rows} rows; w8 as a share of the peaks of AVX512-VNNI and AMX:\n"
        "site           K     N        w8        w4    int_mm  bfloat16   float32    of VNNI     of AMX"
    )
    rows = [linear_row(site, args.rows, args.repeats) for site in SHAPES]
    say("rotate_quantize, microseconds per token:\n         K       native    reference")
    rows += [rotate_row(k, args.rows, args.repeats) for k in (1024, 4096)]
    say("with shift, presmooth and special tokens, microseconds per token:\n         K        fused        steps")
    frames = max(1, args.rows // FRAME_TOKENS)
    rows += [fused_row(k, FRAME_TOKENS, frames, args.repeats) for k in (1024, 4096)]
    say("attention, GFLOP/s; PyTorch's in two types, bare:\n    tokens    native reference  bfloat16   float32")
    rows += [attention_row(int(tokens), args.repeats) for tokens in args.tokens.split(",")]
    say("LayerNorm before it, microseconds per token:\n         K        fused        steps      no norm")
    rows.append(norm_row(args.rows, args.repeats))
    say("int_linear and what follows it, microseconds per token:\nsite              fused        steps         bare")
    rows += [epilogue_row(site, args.rows, args.repeats) for site in ("proj", "fc1", "fc2")]
    head = {"cpu": processor(), "threads": args.threads, "backends": backends, "torch": torch.__version__}
    print(json.dumps({**head, "rows": rows}))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
