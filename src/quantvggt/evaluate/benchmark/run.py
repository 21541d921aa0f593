"""Latency and peak memory of quantized models against baselines, all sides taking turns in one run."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from quantvggt import api
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.evaluate.benchmark.memory import available_bytes
from quantvggt.evaluate.benchmark.sides import BASELINES, BYTES_PER_WEIGHT
from quantvggt.models import VGGT, VGGTConfig
from quantvggt.models.seeded import seeded_model

# Of a forward pass, above the weights; measured on VGGT-1B, see README.
BYTES_PER_PIXEL = {"published-float32": 3000, "published-bf16": 3000}
OTHERS_BYTES_PER_PIXEL = 1000
# Autocast keeps bfloat16 copies of float32 weights; torchao quantizes beside the model.
COPIES = {"published-bf16": 1.5, "torchao": 2.0, "torchao-compiled": 2.0}
USABLE = 0.9  # of the memory that is free
WARM_UP = 1  # frames


@dataclass(frozen=True)
class Setting:
    """What is run: frame counts, image size in pixels, how often, where."""

    frames: Sequence[int]
    height: int
    width: int
    repeats: int = 3
    device: str = "cpu"
    threads: int | None = None


@dataclass
class Side:
    """source: what `sides.open_side` takes. bytes: of its weights."""

    name: str
    source: str | dict[str, Any]
    bytes: int

    def needs(self, frames: int, setting: Setting) -> int:
        """Bytes of memory, roughly."""
        weights = self.bytes * COPIES.get(self.name, 1)
        pixels = frames * setting.height * setting.width
        return int(weights + pixels * BYTES_PER_PIXEL.get(self.name, OTHERS_BYTES_PER_PIXEL))


class Process:
    """A side at work in a process of its own; see `worker`."""

    def __init__(self, side: Side, setting: Setting) -> None:
        task = {"side": side.name, "source": side.source, "device": setting.device, "threads": setting.threads}
        command = [sys.executable, "-m", "quantvggt.evaluate.benchmark.worker"]
        self.pipe = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.reason: str | None = None
        self._ask(json.dumps({**task, "height": setting.height, "width": setting.width}))

    def run(self, frames: int) -> dict[str, Any] | None:
        """One forward pass: its `seconds` and `peak_bytes` so far; None if it failed, now or before, see `reason`."""
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

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.pipe.kill()
        self.pipe.communicate()


def benchmark(
    model: str | None, schemes: Sequence[str], baselines: Sequence[str], setting: Setting, progress: bool = True
) -> Iterator[dict[str, Any]]:
    """Rows as they are done, one per scheme, baseline and number of frames; docs/cli.md says what is in them.

    model: what `quantvggt.load` takes, float or quantized already (then `schemes` aren't asked); None: VGGT-1B with
    seeded weights. Float models are quantized as a whole, by rounding to nearest, which changes neither speed nor size;
    baselines of a quantized one are of its size with seeded weights. Every side has a process of its own, and they
    take turns, so that noise meets all alike. Baselines that don't fit in memory together are compared one group after
    the other, each with the quantized sides anew.
    Raises InputError on unknown names or a model that can't be read.
    """
    if unknown := [name for name in baselines if name not in BASELINES]:
        raise InputError(f"no baseline called {unknown[0]!r}; choose from {', '.join(BASELINES)}")
    with tempfile.TemporaryDirectory(prefix="quantvggt-benchmark-") as folder:
        quantized, source, weights = _prepare(model, schemes, Path(folder))
        others = [Side(name, source, weights * BYTES_PER_WEIGHT.get(name, 2)) for name in baselines]
        for frames in setting.frames:
            for group in _groups(quantized, others, frames, setting):
                yield from _compare(quantized, group, frames, setting, progress)


def _prepare(model: str | None, schemes: Sequence[str], folder: Path) -> tuple[list[Side], str | dict[str, Any], int]:
    """The quantized sides, on disk; the float source; its number of weights."""
    net = seeded_model(VGGTConfig.vggt_1b()) if model is None else api.load(model)
    weights, config = _weights(net.config), net.config.to_dict()
    if model is not None and net.quantization is not None:
        path = Path(model).expanduser()
        return [Side(net.quantization.scheme.name, str(path), _bytes(net))], config, weights
    sides = []
    for name in schemes:
        scheme = Scheme.parse(name)
        small = api.quantize(net, scheme, "rtn", rest=f"w{scheme.weight_bits}a8", progress=False)
        api.save(small, folder / scheme.name)
        sides.append(Side(scheme.name, str(folder / scheme.name), _bytes(small)))
    return sides, config if model is None else model, weights


def _weights(config: VGGTConfig) -> int:
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in VGGT(config).parameters())


def _bytes(model: VGGT) -> int:
    return sum(x.numel() * x.element_size() for x in model.state_dict().values())


def _groups(
    quantized: Sequence[Side], baselines: Sequence[Side], frames: int, setting: Setting
) -> Iterator[list[Side]]:
    """Baselines that fit beside the quantized sides, each at its peak: a process seldom gives memory back. One that
    fits nowhere is alone."""
    free = available_bytes()
    room = sys.maxsize if free is None else int(USABLE * free) - sum(side.needs(frames, setting) for side in quantized)
    group: list[Side] = []
    for side in baselines:
        if group and sum(other.needs(frames, setting) for other in (*group, side)) > room:
            yield group
            group = []
        group.append(side)
    yield group


def _compare(
    quantized: Sequence[Side], baselines: Sequence[Side], frames: int, setting: Setting, progress: bool
) -> Iterator[dict[str, Any]]:
    """The rows of one group."""
    free, refused = available_bytes(), dict[str, str]()
    for side in baselines:
        if free is not None and side.needs(frames, setting) > free:
            refused[side.name] = (
                f"needs about {side.needs(frames, setting) / 1e9:.0f} GB, {free / 1e9:.0f} GB are free here"
            )
    running = [side for side in (*quantized, *baselines) if side.name not in refused]
    seconds: dict[str, list[float]] = {side.name: [] for side in running}
    peaks: dict[str, int] = {}
    with tqdm(total=len(running) * (setting.repeats + 1), unit="run", disable=not progress) as bar:
        processes: dict[str, Process] = {}
        try:
            for side in running:
                bar.set_description(f"{frames} frames, {side.name}")
                processes[side.name] = process = Process(side, setting)
                process.run(frames if "compiled" in side.name else WARM_UP)
                bar.update()
            for _ in range(setting.repeats):
                for name, process in processes.items():
                    bar.set_description(f"{frames} frames, {name}")
                    if answer := process.run(frames):
                        seconds[name].append(answer["seconds"])
                        peaks[name] = answer["peak_bytes"]
                    bar.update()
        finally:
            for process in processes.values():
                process.__exit__(None, None, None)
    reasons = refused | {name: process.reason for name, process in processes.items() if process.reason}
    medians = {name: statistics.median(values) for name, values in seconds.items() if values}
    for side in quantized:
        for baseline in baselines:
            yield _row(side.name, baseline.name, frames, setting, medians, peaks, reasons)


def _row(
    scheme: str,
    baseline: str,
    frames: int,
    setting: Setting,
    medians: Mapping[str, float],
    peaks: Mapping[str, int],
    reasons: Mapping[str, str],
) -> dict[str, Any]:
    ours, theirs = medians.get(scheme), medians.get(baseline)
    row = {
        "scheme": scheme,
        "device": setting.device,
        "frames": frames,
        "height": setting.height,
        "width": setting.width,
        "baseline": baseline,
        "latency_s": ours,
        "baseline_latency_s": theirs,
        "speedup": theirs / ours if ours and theirs else None,
        "peak_bytes": peaks.get(scheme),
        "baseline_peak_bytes": peaks.get(baseline),
        "memory_ratio": None,
        "reason": reasons.get(scheme) or reasons.get(baseline),
    }
    if peaks.get(scheme) and peaks.get(baseline):
        row["memory_ratio"] = peaks[baseline] / peaks[scheme]
    return row


def format_row(row: Mapping[str, Any]) -> str:
    """One line of the table; HEAD is its first."""

    def number(key: str, width: int, unit: float = 1) -> str:
        return f"{'-' if row[key] is None else f'{row[key] / unit:.2f}':>{width}}"

    times = number("latency_s", 8), number("baseline_latency_s", 10), number("speedup", 8)
    sizes = number("peak_bytes", 8, 1e9), number("baseline_peak_bytes", 11, 1e9), number("memory_ratio", 6)
    names = f"{row['frames']:6} {row['scheme']:8} {row['baseline']:18}"
    return " ".join((names, *times, *sizes, row["reason"] or "")).rstrip()


HEAD = (
    f"{'frames':>6} {'scheme':8} {'baseline':18} {'seconds':>8} {'baseline s':>10} {'faster':>8} "
    f"{'peak GB':>8} {'baseline GB':>11} {'ratio':>6}"
)
