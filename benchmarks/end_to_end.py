"""Latency and peak memory of VGGT-1B, quantized, against float, the published code and torchao: the whole grid.

    python benchmarks/end_to_end.py [--frames 2,4,10,20] [any other option of `quantvggt benchmark`]

The same as `quantvggt benchmark --json` with more frames: rows go to stderr as they are done, the last line is JSON.
Takes three hours on two cores, and 24 GB of memory; `--frames 2` a quarter of an hour. After an interruption the
same call goes on.
"""

import sys

from quantvggt.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", "--frames", "2,4,10,20", "--journal", "runs/end_to_end.json", "--json", *sys.argv[1:]]))
