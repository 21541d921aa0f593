"""Latency and peak memory of quantized models against baselines, all sides taking turns in one run."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from quantvggt import api
from quantvggt.bench.published import FRAMES_PER_CHUNK
from quantvggt.bench.sides import BASELINES, BYTES_PER_WEIGHT
from quantvggt.bench.turns import Turns
from quantvggt.core.errors import InputError
from quantvggt.core.machine import processor
from quantvggt.core.memory import available_bytes
from quantvggt.core.scheme import Scheme
from quantvggt.models import Model, ModelConfig, VGGTConfig, build
from quantvggt.models.seeded import seeded_model

# What a forward pass takes above the weights, rounded up from VGGT-1B's peaks (docs/speed.md). Most of it is the
# published heads', which see at most 8 frames at once.
BYTES_PER_PIXEL = {"published-float32": 4000, "published-bf16": 4000, "float-compiled": 2000, "torchao-compiled": 2000}
OTHERS_BYTES_PER_PIXEL = 1000
BYTES_PER_PIXEL_BEYOND = 1500
# Autocast keeps bfloat16 copies of float32 weights; torchao quantizes beside the model.
COPIES = {"published-bf16": 1.5, "torchao": 2.25, "torchao-compiled": 2.25}
WARM_UP = 1  # frames, on a CPU

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What is run: frame counts, image size in pixels, how often, where; bits of the quantized sides' attention."""

    frames: Sequence[int]
    height: int
    width: int
    repeats: int = 3
    device: str = "cpu"
    threads: int | None = None
    attention_bits: int = 16


@dataclass
class Side:
    """source: what `sides.open_side` takes. bytes: of its weights."""

    name: str
    source: str | dict[str, Any]
    bytes: int

    def needs(self, frames: int, setting: Setting) -> int:
        """Bytes of memory, roughly."""
        weights, pixels = self.bytes * COPIES.get(self.name, 1), setting.height * setting.width
        first = min(frames, FRAMES_PER_CHUNK) * BYTES_PER_PIXEL.get(self.name, OTHERS_BYTES_PER_PIXEL)
        return int(weights + pixels * (first + max(0, frames - FRAMES_PER_CHUNK) * BYTES_PER_PIXEL_BEYOND))


class Process:
    """A side at work in a process of its own, until `close`; see `worker`."""

    def __init__(self, side: Side, setting: Setting) -> None:
        task = {"side": side.name, "source": side.source, "device": setting.device, "threads": setting.threads}
        command = [sys.executable, "-m", "quantvggt.bench.worker"]
        self.pipe = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.reason: str | None = None
        task |= {"height": setting.height, "width": setting.width, "attention_bits": setting.attention_bits}
        self._ask(json.dumps(task))

    def run(self, frames: int) -> dict[str, Any] | None:
        """One forward pass: its `seconds`, and `peak_bytes` so far; None if it failed, now or before, see `reason`."""
        return None if self.reason else self._ask(str(frames))

    def _ask(self, line: str) -> dict[str, Any] | None:
        assert self.pipe.stdin is not None
        assert self.pipe.stdout is not None
        try:
            self.pipe.stdin.write(line + "\n")
            self.pipe.stdin.flush()
            answer: dict[str, Any] = json.loads(self.pipe.stdout.readline())
        except (OSError, ValueError):
            code = self.pipe.wait()
            killed = "its process was killed, for want of memory most likely"
            self.reason = killed if code < 0 else f"its process ended with code {code}"
            return None
        self.reason = answer.get("error")
        return None if self.reason else answer

    def close(self) -> None:
        """End it."""
        self.pipe.kill()
        self.pipe.communicate()


def benchmark(
    model: str | None,
    schemes: Sequence[str],
    baselines: Sequence[str],
    setting: Setting,
    progress: bool = True,
    journal: str | os.PathLike[str] | None = None,
) -> Iterator[list[Row]]:
    """For each number of frames, as it is done, a row per scheme and baseline; docs/cli.md says what is in them.

    model: what `quantvggt.load` takes, float or quantized already (then `schemes` aren't asked); None: VGGT-1B with
    seeded weights. Float models are quantized as a whole, by rounding to nearest, which changes neither speed nor size;
    baselines of a quantized one are of its size with seeded weights. Sides take turns, so that noise meets all alike;
    each turn is a new process, warmed up, so that no side holds memory while another runs.
    journal: a file that keeps finished turns, so that the same call on the same machine goes on after an interruption;
    it is removed at the end.
    Raises InputError on unknown names, a model that can't be read, or a journal that is something else.
    """
    if unknown := [name for name in baselines if name not in BASELINES]:
        raise InputError(f"no baseline called {unknown[0]!r}; choose from {', '.join(BASELINES)}")
    with tempfile.TemporaryDirectory(prefix="quantvggt-benchmark-") as folder:
        quantized, source, weights = _prepare(model, schemes, Path(folder))
        others = [Side(name, source, weights * BYTES_PER_WEIGHT.get(name, 2)) for name in baselines]
        turns = Turns(journal, _task(model, [*quantized, *others], setting))
        for frames in setting.frames:
            yield list(_compare(quantized, others, frames, setting, turns, progress))
        turns.discard()


def _task(model: str | None, sides: Sequence[Side], setting: Setting) -> dict[str, Any]:
    """What a turn's time and memory depend on, besides the side and the number of frames."""
    return {
        "model": model if model is None else str(Path(model).expanduser().absolute()),
        "sizes": {side.name: side.bytes for side in sides},
        "image": [setting.height, setting.width],
        "attention_bits": setting.attention_bits,
        "device": [setting.device, setting.threads or torch.get_num_threads(), processor(), torch.__version__],
    }


def _prepare(model: str | None, schemes: Sequence[str], folder: Path) -> tuple[list[Side], str | dict[str, Any], int]:
    """The quantized sides, on disk; the float source; its number of weights."""
    net = seeded_model(VGGTConfig.vggt_1b()) if model is None else api.load(model)
    weights = _weights(net.config)
    config = {"family": net.config.family, "config": net.config.to_dict()}
    if model is not None and net.quantization is not None:
        path = Path(model).expanduser()
        return [Side(net.quantization.scheme.name, str(path), _bytes(net))], config, weights
    sides = []
    for name in schemes:
        scheme = Scheme.parse(name)
        rest = scheme if scheme.float8 else Scheme(scheme.weight_bits, 8)
        small = api.quantize(net, scheme, "rtn", rest=rest, progress=False)
        api.save(small, folder / scheme.name)
        sides.append(Side(scheme.name, str(folder / scheme.name), _bytes(small)))
    return sides, config if model is None else model, weights


def _weights(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters())


def _bytes(model: Model) -> int:
    return sum(x.numel() * x.element_size() for x in model.state_dict().values())


def _compare(
    quantized: Sequence[Side], baselines: Sequence[Side], frames: int, setting: Setting, turns: Turns, progress: bool
) -> Iterator[Row]:
    """The rows of one number of frames."""
    sides = [*quantized, *baselines]
    free, reasons = available_bytes(), dict[str, str]()
    for side in sides:
        if free is not None and side.needs(frames, setting) > free:
            needs = side.needs(frames, setting)
            reasons[side.name] = f"needs about {needs / 1e9:.0f} GB, {free / 1e9:.0f} GB are free here"
    with tqdm(total=len(sides) * setting.repeats, unit="run", disable=not progress) as bar:
        for index in range(setting.repeats):
            for side in sides:
                bar.set_description(f"{frames} frames, {side.name}")
                if side.name not in reasons and len(turns.of(side.name, frames)) <= index:
                    answer = _turn(side, frames, setting)
                    if isinstance(answer, str):
                        reasons[side.name] = answer
                    else:
                        turns.add(side.name, frames, answer)
                bar.update()
    finished = {side.name: found for side in sides if (found := turns.of(side.name, frames))}
    medians = {name: statistics.median(turn["seconds"] for turn in found) for name, found in finished.items()}
    peaks = {name: max(turn["peak_bytes"] for turn in found) for name, found in finished.items()}
    for side in quantized:
        for baseline in baselines:
            yield _row(side.name, baseline.name, frames, setting, medians, peaks, reasons)


def _turn(side: Side, frames: int, setting: Setting) -> dict[str, Any] | str:
    """What the worker says of one forward pass after those that warm it up, or why there is none."""
    process = Process(side, setting)
    try:
        for count in warm_ups(side.name, frames, setting.device):
            process.run(count)
        return process.run(frames) or process.reason or "it gave no answer"
    finally:
        process.close()


def warm_ups(side: str, frames: int, device: str) -> list[int]:
    """The frames of the passes before the one that is timed. On a GPU as many as then, because kernels are chosen and
    compiled by shape, and twice, because a CUDA graph is captured after the second (`models.graphs`)."""
    if device.startswith("cuda"):
        return [frames, frames]
    return [frames if "compiled" in side else WARM_UP]


def _row(
    scheme: str,
    baseline: str,
    frames: int,
    setting: Setting,
    medians: Mapping[str, float],
    peaks: Mapping[str, int],
    reasons: Mapping[str, str],
) -> Row:
    ours, theirs = medians.get(scheme), medians.get(baseline)
    peak, baseline_peak = peaks.get(scheme), peaks.get(baseline)
    return {
        "scheme": scheme,
        "device": setting.device,
        "frames": frames,
        "height": setting.height,
        "width": setting.width,
        "attention_bits": setting.attention_bits,
        "baseline": baseline,
        "latency_s": ours,
        "baseline_latency_s": theirs,
        "speedup": theirs / ours if ours and theirs else None,
        "peak_bytes": peak,
        "baseline_peak_bytes": baseline_peak,
        "memory_ratio": baseline_peak / peak if peak and baseline_peak else None,
        "reason": reasons.get(scheme) or reasons.get(baseline),
    }


def format_rows(rows: Sequence[Row]) -> str:
    """Aligned text, one line a row."""
    head = (
        "frames",
        "scheme",
        "baseline",
        "seconds",
        "baseline s",
        "faster",
        "peak GB",
        "baseline GB",
        "ratio",
        "reason",
    )
    keys = ("frames", "scheme", "baseline", "latency_s", "baseline_latency_s", "speedup")
    body = [
        (
            *(row[key] for key in keys),
            *(row[key] and row[key] / 1e9 for key in ("peak_bytes", "baseline_peak_bytes")),
            row["memory_ratio"],
            row["reason"] or "",
        )
        for row in rows
    ]
    return tabulate(body, head, floatfmt=".2f", missingval="-")
