"""One side in a process of its own: `python -m quantvggt.bench.worker`, spoken to in lines of JSON.

The first line it reads says what to open; each further one is a number of frames to run once. It answers each with
one line: seconds and the peak of its memory above the bare interpreter with PyTorch, or an error.
"""

import json
import sys
import time
from typing import Any

import torch

from quantvggt.bench.sides import open_side
from quantvggt.core.limits import keep_threads_to_cpus
from quantvggt.core.memory import process_peak_bytes, resident_bytes


def main() -> None:
    # Whatever prints to stdout must not get between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    bare = resident_bytes()
    task = json.loads(sys.stdin.readline())
    if task["threads"]:
        torch.set_num_threads(task["threads"])
    else:
        keep_threads_to_cpus()
    try:
        start = time.perf_counter()
        forward = open_side(task["side"], task["source"], task["device"], task["attention_bits"])
        answer(seconds=time.perf_counter() - start)
        for line in sys.stdin:
            frames, generator = int(line), torch.Generator().manual_seed(0)
            images = torch.rand(1, frames, 3, task["height"], task["width"], generator=generator)
            start = time.perf_counter()
            forward(images)
            if task["device"].startswith("cuda"):
                torch.cuda.synchronize(task["device"])
            answer(seconds=time.perf_counter() - start, peak_bytes=process_peak_bytes(task["device"], bare))
    except Exception as error:  # said to the parent, whatever it is
        answer(error=f"{type(error).__name__}: {error}".splitlines()[0])


if __name__ == "__main__":
    main()
