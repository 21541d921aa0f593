"""Bytes on disk of VGGT-1B, whole, in float16 and quantized; and the time to quantize, save and load it.

    python benchmarks/checkpoint_size.py [--schemes w8a8,w4a4,w8a8+w8a8,w4a4+w8a8,w4a4+w4a8]

A scheme is the trunk's, behind a + that of the rest, which otherwise stays in float16. Seeded weights and round to
nearest: neither changes the size. Needs 12 GB of memory and 6 GB of disk for a while.
The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import quantvggt as qv
from quantvggt.models import VGGT, VGGTConfig
from quantvggt.models.seeded import seeded_model


def measure(model: VGGT, scheme: str, folder: Path) -> dict[str, float]:
    """Quantize unless `scheme` is "float16", save, load: seconds of each, and bytes."""
    trunk, _, rest = scheme.partition("+")
    start = time.perf_counter()
    small = model.half() if scheme == "float16" else qv.quantize(model, trunk, "rtn", rest=rest or None)
    quantized = time.perf_counter()
    qv.save(small, folder)
    saved = time.perf_counter()
    qv.load(folder)
    loaded = time.perf_counter()
    return {
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "quantize_s": quantized - start,
        "save_s": saved - quantized,
        "load_s": loaded - saved,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--schemes", default="w8a8,w4a4,w8a8+w8a8,w4a4+w8a8,w4a4+w4a8")
    schemes = [*parser.parse_args().schemes.split(","), "float16"]  # last: it converts the model in place
    model = seeded_model(VGGTConfig.vggt_1b())
    rows = {}
    for scheme in schemes:
        with tempfile.TemporaryDirectory(prefix="vggt-1b-") as folder:
            rows[scheme] = measure(model, scheme, Path(folder) / scheme)
    whole = rows["float16"]["bytes"]
    print(f"{'scheme':10} {'MB':>8} {'ratio':>6} {'quantize s':>11} {'save s':>7} {'load s':>7}", file=sys.stderr)
    for scheme, row in rows.items():
        print(
            f"{scheme:10} {row['bytes'] / 1e6:8.0f} {whole / row['bytes']:6.2f} "
            f"{row['quantize_s']:11.1f} {row['save_s']:7.1f} {row['load_s']:7.1f}",
            file=sys.stderr,
        )
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
