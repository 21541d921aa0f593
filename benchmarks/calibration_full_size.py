"""Calibrating VGGT-1B at its real size: time, memory, and going on after an interruption.

    python benchmarks/calibration_full_size.py [--method dsfq-learned] [--epochs 2] [--clips 4] [--frames 4]

Seeded weights, synthetic images. The calibration runs in a process of its own that is killed once `--stop` blocks are
finished; a second one with the same task goes on and finishes. What is measured is the time of both, and the second
one's peak memory above the float32 weights. Needs about 9 GB. The last line is JSON.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SOURCE = """
import json, resource, sys, time
import quantvggt as qv
from quantvggt.models import VGGTConfig
from quantvggt.models.seeded import seeded_model
from quantvggt.scenes.synthetic import make_clips

task = json.loads(sys.argv[1])
model = seeded_model(VGGTConfig.vggt_1b())
weights = sum(parameter.nbytes for parameter in model.parameters())
clips = make_clips(range(9_000_000, 9_000_000 + task["clips"]), task["frames"], task["side"])
start = time.perf_counter()
qv.quantize(
    model, task["scheme"], task["method"], clips, settings=task["settings"], journal=task["journal"], progress=True
)
peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": time.perf_counter() - start, "weights_bytes": weights, "peak_bytes": peak}))
"""


def start(task: dict[str, Any]) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", SOURCE, json.dumps(task)], stdout=subprocess.PIPE, text=True)


def finished(journal: Path) -> int:
    return len(list(journal.glob("*.safetensors")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--method", default="dsfq-learned")
    parser.add_argument("--scheme", default="w4a4")
    parser.add_argument("--epochs", type=int, default=2, help="of a method that learns (default %(default)s)")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--side", type=int, default=280)
    parser.add_argument("--stop", type=int, default=12, help="blocks before the interruption (default %(default)s)")
    args = parser.parse_args()
    learns = args.method in ("dsfq-learned", "brecq", "qdrop", "flatquant")
    settings = {"epochs": args.epochs} if learns else {}
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal"
        task = {key: getattr(args, key) for key in ("method", "scheme", "clips", "frames", "side")}
        task |= {"settings": settings, "journal": str(journal)}
        begin = time.perf_counter()
        first = start(task)
        while finished(journal) < args.stop and first.poll() is None:
            time.sleep(0.5)
        first.send_signal(signal.SIGKILL)
        first.wait()
        kept, before = finished(journal), time.perf_counter() - begin
        print(f"killed after {before:.0f} s with {kept} of 48 blocks finished; going on", file=sys.stderr)
        output, _ = start(task).communicate()
    row = {**task, "blocks_kept": kept, "seconds_before": before, **json.loads(output.splitlines()[-1])}
    row["peak_above_weights_bytes"] = row["peak_bytes"] - row["weights_bytes"]
    del row["journal"]
    print(
        f"{args.method} {args.scheme}: {kept} blocks in {before:.0f} s (start-up included), the other {48 - kept} and "
        f"the float pass over all in {row['seconds']:.0f} s; peak {row['peak_bytes'] / 1e9:.1f} GB, "
        f"{row['peak_above_weights_bytes'] / 1e9:.1f} GB above the float32 weights",
        file=sys.stderr,
    )
    print(json.dumps(row))


if __name__ == "__main__":
    main()
