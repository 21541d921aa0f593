"""Time and memory of loading VGGT-1B: our mapped loading against building the model and copying into it, and W4A4.

    python benchmarks/load_time.py [--stored bfloat16|float32] [--dtype float32|bfloat16]

Writes a seeded random checkpoint of VGGT-1B (2.5 GB in bfloat16), and one of it as a whole in 4 bits, to a temporary
folder, loads each in a fresh process, the first one both ways, and deletes them. Every process then reads every weight
once, so that a mapped file counts.
The last line is JSON. Resident memory splits into the process's own ("anon") and pages of the mapped file,
which the system may take back at any time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

import quantvggt as qv
from quantvggt.checkpoint.config import FLOAT_DTYPES
from quantvggt.checkpoint.load import load
from quantvggt.checkpoint.weights import TensorInfo, write_safetensors
from quantvggt.models import VGGT, VGGTConfig
from quantvggt.models.seeded import seeded_model


def load_ours(path: Path, dtype: torch.dtype) -> VGGT:
    return load(path, dtype=dtype)


def load_naive(path: Path, dtype: torch.dtype) -> VGGT:
    """What most code does: a randomly initialised model, the whole state dict, a copy from one to the other."""
    model = VGGT(VGGTConfig.vggt_1b()).to(dtype)
    model.load_state_dict(load_file(path))
    return model.eval()


SIDES = {"ours": load_ours, "naive": load_naive, "quantized": load_ours}


def write_random_vggt_1b(path: Path, dtype: torch.dtype) -> None:
    with torch.device("meta"):
        state = VGGT(VGGTConfig.vggt_1b()).state_dict()
    generator = torch.Generator().manual_seed(0)
    infos = {name: TensorInfo(tuple(x.shape), dtype) for name, x in state.items()}
    write_safetensors(path, infos, lambda n: torch.randn(infos[n].shape, generator=generator).to(dtype), {})


def write_quantized_vggt_1b(folder: Path) -> None:
    model = seeded_model(VGGTConfig.vggt_1b())
    qv.save(qv.quantize(model, "w4a4", "rtn", rest="w4a8", progress=False), folder)


class MemoryWatch:
    """Peak of this process's resident memory, in bytes, by kind (Linux)."""

    def __init__(self) -> None:
        self.peaks = {"RssAnon": 0, "RssFile": 0, "total": 0}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            now = {kind: int(lines[kind].split()[0]) * 1024 for kind in ("RssAnon", "RssFile")}
            now["total"] = sum(now.values())
            self.peaks = {kind: max(self.peaks[kind], now[kind]) for kind in now}

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def measure(side: str, path: Path, dtype: torch.dtype) -> None:
    with MemoryWatch() as watch:
        start = time.perf_counter()
        model = SIDES[side](path, dtype)
        loaded = time.perf_counter() - start
        total = sum(x.sum(dtype=torch.float64).item() for x in model.state_dict().values())
        touched = time.perf_counter() - start
    print(
        json.dumps(
            {
                "load_s": round(loaded, 2),
                "load_and_read_s": round(touched, 2),
                "peak_bytes": watch.peaks["total"],
                "peak_anon_bytes": watch.peaks["RssAnon"],
                "peak_file_bytes": watch.peaks["RssFile"],
                "checksum": total,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stored", choices=FLOAT_DTYPES, default="bfloat16")
    parser.add_argument("--dtype", choices=FLOAT_DTYPES, default="float32")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        measure(arguments.side, arguments.path, FLOAT_DTYPES[arguments.dtype])
        return

    rows = {}
    with tempfile.TemporaryDirectory(prefix="vggt-1b-") as folder:
        path = Path(folder) / "model.safetensors"
        print(f"writing random VGGT-1B in {arguments.stored} ...", file=sys.stderr)
        write_random_vggt_1b(path, FLOAT_DTYPES[arguments.stored])
        quantized = Path(folder) / "w4a4"
        write_quantized_vggt_1b(quantized)
        for side in SIDES:
            where = quantized if side == "quantized" else path
            command = [sys.executable, __file__, "--side", side, "--path", str(where), "--dtype", arguments.dtype]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rows[side] = json.loads(output.splitlines()[-1])
            gigabytes = {key: f"{rows[side][key] / 1e9:.2f} GB" for key in rows[side] if key.endswith("bytes")}
            print(f"{side:>9}: {rows[side]['load_s']} s to load, peak {gigabytes}", file=sys.stderr)
        file_bytes = path.stat().st_size
        rows["quantized"]["file_bytes"] = sum(file.stat().st_size for file in quantized.iterdir())
    sums = {side: row.pop("checksum") for side, row in rows.items()}
    if sums["ours"] != sums["naive"]:
        raise SystemExit("the two models differ")
    print(json.dumps({"stored": arguments.stored, "dtype": arguments.dtype, "file_bytes": file_bytes, **rows}))


if __name__ == "__main__":
    main()
