"""What the kernels do on an NVIDIA GPU: right, how fast beside the chip's own ceilings, whole passes, memory.

    PYTHONPATH=src python benchmarks/gpu.py --part correctness|kernels|passes|memory|all [--output runs/gpu.jsonl]

Made for a GPU that is there for minutes: it needs PyTorch for CUDA (with its Triton), numpy, safetensors and tqdm, and
the package's sources, not installed. Parts take one to three minutes. Each result is a line of JSON in the output as
soon as there is one, and a line that is there already, from the same GPU and sources, is not measured again: a run that
was cut off goes on. A side that fails leaves a line with its error. Models are VGGT-1B with seeded weights, frames
518x392; everything is shared with `quantvggt benchmark` (`bench.sides`), the published way too.

    correctness  every kernel, and PyTorch's float8 product, at VGGT's shapes against float64; does a small trunk,
                 warmed up, ever wait for the GPU, and is it replayed as a CUDA graph?
    kernels      TOP/s and GB/s without launches (CUDA graphs); ceilings are cuBLASLt's int8 (torch._int_mm) and
                 bfloat16 products, a copy, PyTorch's attention by each of its backends, with which that with 8-bit
                 queries and keys and that thinned out are to be compared; low-rank branches, whose own operations
                 aren't counted; other tiles for `int_linear`
    passes       seconds and peak memory of w8a8, w4a8, w4a4, w8a8-fp8, w4a4 with 8-bit queries and keys, the published
                 way, our bfloat16 model under torch.compile; of the fewest frames without CUDA graphs too
    memory       the most frames in 8, 16 and 24 GB, without CUDA graphs

`--device cpu --tiny` with TRITON_INTERPRET=1 tries all of it out without a GPU; its numbers mean nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantvggt.bench.sides import open_side
from quantvggt.calibrate.pipeline import quantize
from quantvggt.checkpoint.save import save
from quantvggt.core.float8 import quantize_float8
from quantvggt.core.machine import source_commit
from quantvggt.core.memory import gpu_index
from quantvggt.core.packing import pack_int4
from quantvggt.core.rotation import random_signs, rotate
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.kernels import ops, reference, registry  # noqa: F401 - the ops register themselves
from quantvggt.kernels.contract import Attention, Float8Linear, IntLinear, RotateQuantize, Step
from quantvggt.kernels.triton import tune
from quantvggt.kernels.triton.capture import without_waiting
from quantvggt.kernels.triton.launch import on
from quantvggt.kernels.triton.tiles import CANDIDATES, Tile
from quantvggt.models import VGGTConfig, graphs
from quantvggt.models.seeded import seeded_model
from quantvggt.models.sites import quantizable_sites
from quantvggt.nn.quant_linear import QuantLinear
from quantvggt.nn.rope import rope_tables
from quantvggt.nn.thinned import seen_by_others

PARTS = ("correctness", "kernels", "passes", "memory")
SCHEMES = ("w8a8", "w4a8", "w4a4", "w8a8-fp8")
ROUNDED = {"w4a4-attention8": "w4a4"}  # sides with 8-bit queries and keys: their schemes
ORDER = ("w8a8", "published-bf16", "w4a4", "float-compiled", "w4a8", "w4a4-attention8", "w8a8-fp8")
"""Of passes: what time may run out for comes last."""
LIMITED = ("w8a8", "published-bf16", "w4a4")
SITES = {"qkv": (1024, 3072), "proj": (1024, 1024), "fc1": (1024, 4096), "fc2": (4096, 1024)}
TINY = VGGTConfig(
    img_size=28, embed_dim=64, depth=1, num_heads=2, patch_embed="conv", camera_trunk_depth=1, camera_num_heads=4,
    dpt_features=32, dpt_out_channels=(16, 32, 64, 64), dpt_layers=(0, 0, 0, 0), heads=("camera", "depth"),
)  # fmt: skip
DINO = replace(TINY, patch_embed="dinov2_vits14_reg", embed_dim=384, num_heads=6)
RANKS = (16, 32)  # of low-rank branches
EDGE = 1e-4  # of a step: so near to the middle between two integers float32 may take either; it takes up to 2e-5
MOST_LOST = 0.02  # of attention's norm, of which bfloat16 costs half a percent, with 8-bit queries and keys one
GB = 1e9

Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """What is measured: VGGT-1B, or something that an interpreter can do. trunk: of a model for checks."""

    config: VGGTConfig
    trunk: VGGTConfig
    sites: dict[str, tuple[int, int]]
    height: int
    width: int
    frames: tuple[int, ...]
    kernel_frames: tuple[int, ...]
    repeats: int
    limits: tuple[int, ...] = (8, 16, 24)
    peaks: tuple[int, int] = (2, 6)  # frames whose peaks say what a frame takes

    @property
    def frame_tokens(self) -> int:
        return 5 + self.height // self.config.patch_size * (self.width // self.config.patch_size)


FULL = Sizes(VGGTConfig.vggt_1b(), DINO, SITES, 392, 518, (2, 20, 80), (2, 20), 5)
SMALL = Sizes(TINY, TINY, {"qkv": (64, 192), "fc2": (256, 64)}, 28, 28, (1,), (2,), 1, (2,), (1, 2))


class Results:
    """The output file: one JSON line a result."""

    def __init__(self, path: Path, head: Row) -> None:
        self.path, self.head = path, head
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else ""
        if text and not text.endswith("\n"):  # cut off while it was written
            path.write_text(text + "\n")
        rows = [row for line in text.splitlines() if (row := _parsed(line))]
        self.done = {row["key"] for row in rows if head.items() <= row.items() and "error" not in row}

    def measure(self, key: str, make: Callable[[], Row]) -> None:
        """Add what `make` gives, unless it is there."""
        if key in self.done:
            return
        try:
            row = make()
        except Exception as error:  # said in the file, whatever it is: the next result may be there for the taking
            row = {"error": f"{type(error).__name__}: {error}".split("\n")[0]}
        self.add(key, row)

    def add(self, key: str, row: Row) -> None:
        line = json.dumps({"key": key, **row, **self.head})
        with self.path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(f"{key}: {json.dumps(row)}", file=sys.stderr, flush=True)


class Bench:
    """The device, its clock, and numbers from one seed."""

    def __init__(self, device: str, sizes: Sizes) -> None:
        self.cuda, self.sizes = device.startswith("cuda"), sizes
        self.device = torch.device("cuda", gpu_index(device)) if self.cuda else torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(0)

    def head(self) -> Row:
        name = torch.cuda.get_device_name(self.device) if self.cuda else "CPU, a trial: the numbers mean nothing"
        return {"gpu": name, "torch": torch.__version__, "triton": _triton_version(), "commit": source_commit()}

    def seconds(self, run: Callable[[], object]) -> float:
        """Of one call, the median of several: on a GPU without the launches, from a CUDA graph of some calls."""
        return tune.seconds(run, self.device, self.sizes.repeats)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def floats(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device).to(dtype)

    def positive(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device) + 0.5

    def integers(self, *shape: int, bits: int = 8) -> Tensor:
        half = 1 << (bits - 1)
        return torch.randint(-half, half, shape, dtype=torch.int8, generator=self.generator, device=self.device)

    def weight(self, n: int, k: int, bits: int) -> Tensor:
        return self.integers(n, k) if bits == 8 else pack_int4(self.integers(n, k, bits=4))

    def linear(
        self, rows: int, k: int, n: int, bits: int, dtype: torch.dtype, epilogue: str = "bias", rank: int = 0
    ) -> IntLinear:
        gain, residual = (
            (self.positive(n), self.floats(rows, n, dtype=dtype)) if epilogue == "residual" else (None,) * 2
        )
        row_scale = self.positive(rows, 2 if rank else 1) / (64 * k**0.5)
        branch = (self.integers(n, rank), self.positive(n) / 64) if rank else (None, None)
        return IntLinear(
            self.integers(rows, k + rank), row_scale, self.weight(n, k, bits), self.positive(n) / 64, self.floats(n),
            dtype, epilogue == "gelu", gain, residual, *branch,
        )  # fmt: skip

    def float8(self, rows: int, k: int, n: int) -> Float8Linear:
        factors = quantize_float8(self.floats(rows, k)), quantize_float8(self.floats(n, k))
        return Float8Linear(*factors[0], *factors[1], self.floats(n), torch.bfloat16)

    def rotation(self, rows: int, k: int, dtype: torch.dtype, norm: bool, bits: int, rank: int = 0) -> RotateQuantize:
        weight, bias = (self.positive(k), self.floats(k)) if norm else (None, None)
        signs, tokens = random_signs(k, 0).to(self.device), self.sizes.frame_tokens
        basis = (self.integers(k, rank), self.positive(1) / (128 * k**0.5)) if rank else (None, None)
        return RotateQuantize(
            self.floats(rows, k, dtype=dtype), signs, self.positive(k), None, bits, frame_tokens=tokens,
            special_tokens=5, norm_weight=weight, norm_bias=bias, basis=basis[0], basis_scale=basis[1],
        )  # fmt: skip

    def attention(self, batch: int, frames: int, dtype: torch.dtype, bits: int = 16, thin: bool = False) -> Attention:
        config, sizes = self.sizes.config, self.sizes
        d = config.embed_dim // config.num_heads
        rows, columns = (side // config.patch_size for side in (sizes.height, sizes.width))
        norms = self.positive(d), self.floats(d), self.positive(d), self.floats(d)
        qkv = self.floats(batch, frames * sizes.frame_tokens, 3 * config.embed_dim, dtype=dtype)
        seen = seen_by_others(sizes.frame_tokens, 5, columns, 2, self.device) if thin else None
        rope = rope_tables(rows, columns, 5, d, self.device)
        return Attention(qkv, config.num_heads, *norms, 1e-5, *rope, seen, bits)


def run(step: Step) -> Any:
    """On Triton's kernels, float8 by PyTorch's product, or not at all."""
    wanted = "scaled_mm" if isinstance(step, Float8Linear) else "triton"
    backend = registry.choose(step)
    if backend.name != wanted:
        rows = registry.report(step.device)
        reasons = {row.reason for row in rows if row.op == step.OP and row.backend == wanted}
        raise RuntimeError(f"{step.OP} does not run by {wanted} here: {'; '.join(sorted(reasons))}")
    return backend.run(step)


# (a) Every kernel against float64


def correctness(bench: Bench, results: Results) -> None:
    tokens = bench.sizes.frame_tokens
    for site, (k, n) in bench.sizes.sites.items():
        for bits in (8, 4):
            for epilogue in ("bias", "gelu", "residual"):
                for dtype in (torch.float32, torch.bfloat16):
                    key = f"correctness/int_linear/{site}/w{bits}/{epilogue}/{_name(dtype)}"
                    make = lambda a=(2 * tokens + 7, k, n, bits, dtype, epilogue): _check_linear(bench, *a)  # noqa: E731
                    results.measure(key, make)
            for rank in RANKS:
                key = f"correctness/int_linear/{site}/w{bits}/branch {rank}"
                make = lambda a=(2 * tokens + 7, k, n, bits, torch.float32, "residual", rank): _check_linear(bench, *a)  # noqa: E731
                results.measure(key, make)
        key = f"correctness/float8_linear/{site}"
        results.measure(key, lambda a=(2 * tokens + 7, k, n): _check_float8(bench, *a))
    for k in sorted({k for k, _ in bench.sizes.sites.values()}):
        for rank in RANKS:
            key = f"correctness/rotate_quantize/{k}/branch {rank}"
            results.measure(key, lambda a=(2 * tokens, k, torch.float32, False, 4, rank): _check_part(bench, *a))
        for norm in (False, True):
            for bits in (8, 4):
                key = f"correctness/rotate_quantize/{k}/{'norm' if norm else 'plain'}/a{bits}"
                results.measure(key, lambda a=(2 * tokens, k, torch.float32, norm, bits): _check_rotation(bench, *a))
    for batch, frames in ((2, 1), (1, 2)):
        for dtype in (torch.bfloat16, torch.float16):
            key = f"correctness/attention/{batch}x{frames}/{_name(dtype)}"
            results.measure(key, lambda a=(batch, frames, dtype): _check_attention(bench, *a))
            for bits, thin in ((16, True), (8, False), (8, True)):
                other = f"{key}/{bits}-bit{', thinned out' if thin else ''}"
                results.measure(other, lambda a=(batch, frames, dtype, bits, thin): _check_attention(bench, *a))
    for scheme in SCHEMES if bench.cuda else SCHEMES[-2:]:
        for attention, bits in (("exact", 16), ("fast", 16), ("fast", 8)):
            key = f"correctness/trunk/{scheme}/{attention}, {bits} bits"
            results.measure(key, lambda a=(scheme, attention, bits): _check_trunk(bench, *a))


def _check_linear(bench: Bench, *what: Any) -> Row:
    step = bench.linear(*what)
    got, same = run(step), reference.int_linear(step)
    # On a GPU the reference's sums are float64; what follows is float32 as in the kernel.
    off = (got.double() - same.double()).abs()
    allowed = torch.finfo(step.out_dtype).eps * same.double().abs() + (2e-6 if step.gelu else 0)
    ok = bool((off <= allowed).all()) if step.gelu else bool(torch.equal(got, same)) or not bench.cuda
    return {"ok": ok, "worst": off.max().item(), "different": int((got != same).sum()), "of": got.numel()}


def _check_float8(bench: Bench, *what: Any) -> Row:
    step = bench.float8(*what)
    exact = (step.q.double() @ step.weight.double().t()) * step.row_scale[:, None] * step.weight_scale
    exact += step.bias if step.bias is not None else 0
    got = run(step) if bench.cuda else reference.float8_linear(step)
    lost = ((got.double() - exact).norm(dim=-1) / exact.norm(dim=-1)).max().item()
    return {"ok": lost < 0.004, "worst_row_lost": lost}


def _check_rotation(bench: Bench, *what: Any) -> Row:
    step = bench.rotation(*what)
    q, scale = run(step)
    x = step.x.double()
    if step.norm_weight is not None and step.norm_bias is not None:
        x = F.layer_norm(x, x.shape[-1:], step.norm_weight.double(), step.norm_bias.double(), step.norm_eps)
    assert step.signs is not None
    assert step.smooth is not None
    y = rotate(x, step.signs) / step.smooth
    special = torch.arange(len(y), device=y.device) % step.frame_tokens < step.special_tokens
    top = torch.where(special, 2 ** (step.special_bits - 1) - 1, 2 ** (step.bits - 1) - 1)[:, None].double()
    exact_scale = y.abs().amax(-1, keepdim=True) / top
    exact = torch.minimum(torch.maximum(y / exact_scale, -top - 1), top)
    off = ((q - exact).abs() - 0.5).max().item()
    worst_scale = (scale / exact_scale - 1).abs().max().item()
    return {"ok": off <= EDGE and worst_scale <= 1e-6, "beyond_half_a_step": off, "worst_scale": worst_scale}


def _check_part(bench: Bench, *what: Any) -> Row:
    """The reference's bits with a basis, as a CPU computes them: PyTorch's quotients on a GPU aren't the nearest."""
    step = bench.rotation(*what)
    values = ((field.name, getattr(step, field.name)) for field in fields(step))
    expected = reference.rotate_quantize(
        RotateQuantize(**{name: value.cpu() if isinstance(value, Tensor) else value for name, value in values})
    )
    different = [int((got.cpu() != each).sum()) for got, each in zip(run(step), expected, strict=True)]
    return {"ok": not any(different), "different_integers": different[0], "different_scales": different[1]}


def _check_attention(bench: Bench, *what: Any) -> Row:
    step = bench.attention(*what)
    values = {field.name: getattr(step, field.name) for field in fields(step)}
    doubles = {
        name: value.double() if isinstance(value, Tensor) and name not in ("cosine", "sine", "seen") else value
        for name, value in values.items()
    }
    exact = reference.attention(Attention(**doubles))
    lost, usual = ((y.double() - exact).norm() / exact.norm() for y in (run(step), reference.attention(step)))
    return {
        "ok": bool(lost <= min(1.5 * usual + 1e-3, MOST_LOST)) or not bench.cuda,
        "lost": lost.item(),
        "reference_lost": usual.item(),
    }


def _check_trunk(bench: Bench, scheme: str, attention: str, bits: int) -> Row:
    """A small model's trunk: its second pass doesn't wait for the GPU, its third is a graph's that gives the same."""
    chosen = Scheme.parse(scheme)
    model = seeded_model(bench.sizes.trunk, dtype=torch.bfloat16, device=bench.device)
    model = quantize(model, chosen, "rtn", rest=_rest(chosen), progress=False)
    model.attention, model.attention_bits = attention, bits
    clip = torch.rand(1, 2, 3, 56, 42, generator=bench.generator, device=bench.device).bfloat16()
    waits, told = None, list[warnings.WarningMessage]()
    expected = model.last_output(model.encode(clip)).double()
    try:
        with without_waiting(bench.device):
            model.encode(clip)
    except RuntimeError as error:
        waits = str(error).split("\n")[0]
    else:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            graphs.encode(model, clip), graphs.encode(model, clip)
    lost = ((model.last_output(graphs.encode(model, clip)).double() - expected).norm() / expected.norm()).item()
    made = graphs.captured(model)
    ok = waits is None and lost <= graphs.TOLERANCE and made == bench.cuda
    return {"ok": ok, "waits": waits, "graphs": made, "lost": lost, "warnings": [str(each.message) for each in told]}


# (b) Kernels and ceilings


def kernels(bench: Bench, results: Results) -> None:
    sizes = bench.sizes
    for frames in sizes.kernel_frames:
        rows = frames * sizes.frame_tokens
        for site, (k, n) in sizes.sites.items():
            key = f"kernels/int_linear/{frames} frames/{site}"
            results.measure(
                key, lambda a=(rows, k, n, "gelu" if site == "fc1" else "residual"): _time_linear(bench, *a)
            )
        for k in sorted({k for k, _ in sizes.sites.values()}):
            key = f"kernels/rotate_quantize/{frames} frames/{k}"
            results.measure(key, lambda a=(rows, k): _time_rotation(bench, *a))
        for name, shape in {"frame": (frames, 1), "global": (1, frames)}.items():
            results.measure(f"kernels/attention/{frames} frames/{name}", lambda a=shape: _time_attention(bench, *a))
    rows = sizes.kernel_frames[-1] * sizes.frame_tokens
    for site, (k, n) in sizes.sites.items():
        for bits in (8, 4):
            for tile in CANDIDATES if bench.cuda else CANDIDATES[:1]:
                shape = f"{tile.rows}x{tile.columns}x{tile.depth}/{tile.warps} warps/{tile.stages} stages"
                key = f"kernels/tiles/{site}/w{bits}/{shape}"
                results.measure(key, lambda a=(rows, k, n, bits, tile): _time_tile(bench, *a))


def _time_linear(bench: Bench, rows: int, k: int, n: int, epilogue: str) -> Row:
    eight, four = (bench.linear(rows, k, n, bits, torch.bfloat16) for bits in (8, 4))
    finished = bench.linear(rows, k, n, 8, torch.bfloat16, epilogue)
    branches = {
        f"w{bits}_branch_{rank}": bench.linear(rows, k, n, bits, torch.bfloat16, rank=rank)
        for bits in (8, 4)
        for rank in RANKS
    }
    float8 = bench.float8(rows, k, n)
    x, weight, bias = bench.floats(rows, k).bfloat16(), bench.floats(n, k).bfloat16(), bench.floats(n).bfloat16()
    padded = F.pad(eight.q, (0, 0, 0, -rows % 32))  # cuBLASLt wants multiples of 8 and more
    sides: dict[str, Callable[[], object]] = {
        "w8": lambda: run(eight),
        "w4": lambda: run(four),
        f"w8_{epilogue}": lambda: run(finished),
        **{name: lambda step=step: run(step) for name, step in branches.items()},
        "int_mm": lambda: torch._int_mm(padded, eight.weight.t()),
        "bfloat16": lambda: F.linear(x, weight, bias),
    }
    if registry.choose(float8).name == "scaled_mm":
        sides["float8"] = lambda: run(float8)
    seconds = {name: bench.seconds(side) for name, side in sides.items()}
    tops = {name: 2e-12 * rows * k * n / each for name, each in seconds.items()}
    return {"m": rows, "k": k, "n": n, "tops": tops, "of_int_mm": {b: tops[b] / tops["int_mm"] for b in ("w8", "w4")}}


def _time_rotation(bench: Bench, rows: int, k: int) -> Row:
    step = bench.rotation(rows, k, torch.float32, norm=True, bits=8)
    target = torch.empty_like(step.x)
    ours, copy = bench.seconds(lambda: run(step)), bench.seconds(lambda: target.copy_(step.x))
    speed = step.x.numel() * (4 + 1) / ours / GB
    ceiling = step.x.numel() * (4 + 4) / copy / GB
    branches = {}
    for rank in RANKS:
        beside = bench.rotation(rows, k, torch.float32, norm=True, bits=8, rank=rank)
        branches[f"us_branch_{rank}"] = 1e6 * bench.seconds(lambda beside=beside: run(beside))
    speeds = {"gb_s": speed, "copy_gb_s": ceiling, "of_copy": speed / ceiling}
    return {"m": rows, "k": k, **speeds, "us": 1e6 * ours, **branches}


def _time_attention(bench: Bench, batch: int, frames: int) -> Row:
    from quantvggt.kernels.triton.attention import PRIORITY, plan

    step = bench.attention(batch, frames, torch.bfloat16)
    q, k, v = (x.transpose(1, 2) for x in step.qkv.unflatten(-1, (3, step.num_heads, -1)).unbind(2))
    prepared = step.qkv.new_empty(2, *step.qkv.shape[:2], step.num_heads, step.head_size)

    def prepare() -> None:
        with on(bench.device):
            plan(step, prepared).run()

    rounded = replace(step, score_bits=8)
    thinned = bench.attention(batch, frames, torch.bfloat16, thin=frames > 1)
    seconds: dict[str, float | str] = {
        "attention": bench.seconds(lambda: run(step)),
        "attention8": bench.seconds(lambda: run(rounded)),
        "prepare": bench.seconds(prepare),
    }
    if frames > 1:
        seconds["attention_thinned"] = bench.seconds(lambda: run(thinned))
        seconds["attention8_thinned"] = bench.seconds(lambda: run(replace(thinned, score_bits=8)))
    for backend in PRIORITY[:-1]:  # the last holds the whole matrix

        def bare(backend: Any = backend) -> Tensor:
            with torch.nn.attention.sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)

        try:
            seconds[backend.name] = bench.seconds(bare)
        except RuntimeError as error:
            seconds[backend.name] = str(error).split("\n")[0]
    operations = 4 * batch * step.qkv.shape[1] ** 2 * step.qkv.shape[2] // 3
    whole = {name: each for name, each in seconds.items() if isinstance(each, float) and "thinned" not in name}
    tops = {name: 1e-12 * operations / each for name, each in whole.items() if name != "prepare"}
    return {"batch": batch, "tokens": step.qkv.shape[1], "seconds": seconds, "tops": tops}


def _time_tile(bench: Bench, rows: int, k: int, n: int, bits: int, tile: Tile) -> Row:
    from quantvggt.kernels.triton.linear import plan

    step = bench.linear(rows, k, n, bits, torch.bfloat16)
    y = step.empty()
    with on(bench.device):
        launch = plan(step, y, tile)
        seconds = bench.seconds(launch.run)
    return {"tops": 2e-12 * rows * k * n / seconds, "same": bool(torch.equal(y, reference.int_linear(step)))}


# (c) and (d) Whole passes and memory, each side in a process of its own


def checkpoint(scheme: str, sizes: Sizes, work: Path, device: str) -> str:
    """VGGT in this scheme as a whole, every input of its trunk rotated and smoothed as in QuantVGGT if it becomes
    integers; made once."""
    folder = work / f"{'tiny' if sizes is SMALL else 'vggt-1b'}-{scheme}"
    if not (folder / "config.json").exists():
        chosen = Scheme.parse(scheme)
        model = seeded_model(sizes.config, device=device)
        small = quantize(model, chosen, "rtn", rest=_rest(chosen), progress=False)
        for name in () if chosen.float8 else quantizable_sites(model):
            linear = model.get_submodule(name)
            k = linear.in_features
            smooth = torch.linspace(0.5, 1.5, k, device=device)
            transform = Transform(signs=random_signs(k, 0).to(device), smooth=smooth)
            small.set_submodule(name, QuantLinear.from_float(linear, chosen, transform))
        save(small, folder, overwrite=True)
    return str(folder)


def _rest(scheme: Scheme) -> Scheme:
    """Of what lies outside the trunk."""
    return scheme if scheme.float8 else Scheme(scheme.weight_bits, 8)


def open_one(bench: Bench, side: str, work: Path) -> Callable[[Tensor], Any]:
    config = bench.sizes.config
    source = {"family": config.family, "config": config.to_dict()}
    scheme, bits = ROUNDED.get(side, side), 8 if side in ROUNDED else 16
    return open_side(side, checkpoint(scheme, bench.sizes, work, str(bench.device)) if scheme in SCHEMES else source,
                     str(bench.device), bits)  # fmt: skip


def images(bench: Bench, frames: int) -> Tensor:
    return torch.rand(1, frames, 3, bench.sizes.height, bench.sizes.width, generator=torch.Generator().manual_seed(0))


def time_side(bench: Bench, side: str, work: Path, results: Results) -> None:
    wanted = [frames for frames in bench.sizes.frames if f"passes/{side}/{frames} frames" not in results.done]
    if not wanted:
        return
    if "compiled" in side:
        # Blocks share their code, and every shape is a version of it: beyond the limit they would run uncompiled.
        torch._dynamo.config.recompile_limit = 256
    start = time.perf_counter()
    forward = open_one(bench, side, work)
    opened = time.perf_counter() - start
    for frames in wanted:
        clip = images(bench, frames).to(bench.device)

        def measure(clip: Tensor = clip) -> Row:
            forward(clip)
            forward(clip)  # after the second time few frames are captured (models.graphs), from the third on replayed
            before = _memory(bench, reset=True)
            seconds = _seconds_of_passes(bench, forward, clip)
            peak = _memory(bench)
            times: Row = {"seconds": statistics.median(seconds), "all_seconds": seconds}
            if clip.shape[1] == min(bench.sizes.frames) and bench.cuda:
                with _no_graphs():
                    times["seconds_without_graphs"] = statistics.median(_seconds_of_passes(bench, forward, clip))
            return {**times, "resident_bytes": before, "peak_bytes": peak, "opened_s": opened}

        results.measure(f"passes/{side}/{frames} frames", measure)


def _seconds_of_passes(bench: Bench, forward: Callable[[Tensor], Any], clip: Tensor) -> list[float]:
    seconds = []
    bench.wait()
    for _ in range(max(1, bench.sizes.repeats - 2)):
        begin = time.perf_counter()
        forward(clip)
        bench.wait()
        seconds.append(time.perf_counter() - begin)
    return seconds


@contextmanager
def _no_graphs() -> Iterator[None]:
    before = os.environ[graphs.ENVIRONMENT]
    os.environ[graphs.ENVIRONMENT] = "0"
    try:
        yield
    finally:
        os.environ[graphs.ENVIRONMENT] = before


def most_frames(bench: Bench, side: str, work: Path, results: Results) -> None:
    wanted = [limit for limit in bench.sizes.limits if f"memory/{side}/{limit} GB" not in results.done]
    if not wanted:
        return
    forward = open_one(bench, side, work)

    def peak(frames: int) -> int:
        _memory(bench, reset=True)
        with _no_graphs():  # each would keep its own memory
            forward(images(bench, frames).to(bench.device))
        bench.wait()
        return _memory(bench) or frames * 10**9

    first, second = bench.sizes.peaks
    few, more = (peak(frames) for frames in (first, second))
    each = (more - few) / (second - first)
    total = torch.cuda.get_device_properties(bench.device).total_memory if bench.cuda else 24 * GB
    for limit in sorted(wanted):
        if limit * GB > total:
            continue

        def fits(frames: int, limit: int = limit) -> bool:
            if not bench.cuda:
                return frames <= limit  # nothing limits it there
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(limit * GB / total, bench.device)
            try:
                return peak(frames) <= limit * GB
            except torch.OutOfMemoryError:
                return False

        guess = int(first + (limit * GB - few) / each)
        results.measure(
            f"memory/{side}/{limit} GB", lambda guess=guess, fits=fits: {"frames": search(fits, guess), "guess": guess}
        )


def search(fits: Callable[[int], bool], guess: int) -> int:
    """The most frames that fit, to one part in ten, with few tries if the guess is near; 0 if not even one does."""
    frames = max(1, guess)
    if fits(frames):
        while fits(more := frames + max(1, frames // 10)):
            frames = more
        return frames
    while frames > 1:
        frames -= max(1, frames // 10)
        if fits(frames):
            return frames
    return 0


def _memory(bench: Bench, reset: bool = False) -> int | None:
    """Bytes at the worst; with `reset` those held now, from which the worst counts anew."""
    if not bench.cuda:
        return None
    if reset:
        torch.cuda.reset_peak_memory_stats(bench.device)
    return torch.cuda.max_memory_allocated(bench.device)


def each_side(sides: Iterable[str], part: str, argv: list[str], results: Results) -> None:
    """In processes of their own: the published way changes what others share, and a limit on memory is for good."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what the parts before held
    for side in sides:
        code = subprocess.run([sys.executable, __file__, *argv, "--part", part, "--side", side], check=False).returncode
        if code:
            results.add(f"{part}/{side}", {"error": f"its process ended with code {code}"})


def _parsed(line: str) -> Row | None:
    try:
        row: Row = json.loads(line)
    except ValueError:
        return None
    return row


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _triton_version() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return str(triton.__version__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu.jsonl"), help="kept and added to")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu"), help="folder for quantized checkpoints")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model and layers of toy size")
    parser.add_argument("--side", choices=ORDER, help="only this one, of passes or memory")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU here; --device cpu --tiny tries the script out")
    os.environ.setdefault(graphs.ENVIRONMENT, "1")
    bench = Bench(args.device, SMALL if args.tiny else FULL)
    results = Results(args.output, bench.head())
    argv = ["--output", str(args.output), "--work", str(args.work), "--device", args.device, *["--tiny"] * args.tiny]
    for part in PARTS if args.part == "all" else (args.part,):
        start = time.perf_counter()
        if part in ("correctness", "kernels"):
            with torch.inference_mode():
                (correctness if part == "correctness" else kernels)(bench, results)
        elif args.side is None:
            each_side(ORDER if part == "passes" else LIMITED, part, argv, results)
        else:
            (time_side if part == "passes" else most_frames)(bench, args.side, args.work, results)
        print(f"{part}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
