"""benchmarks/gpu.py at a size that the interpreter can do, so that it works on the day when there is a GPU, and with
nothing that a machine for that day lacks."""

import json
import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

BENCHMARK = Path(__file__).parents[4] / "benchmarks" / "gpu.py"
SOURCE = BENCHMARK.parents[1] / "src"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCE), "QUANTVGGT_KERNELS": "triton"}
# PyTorch's wheel for CUDA, with what that needs, and three more.
THERE = {
    *("torch", "torchgen", "functorch", "triton", "numpy", "safetensors", "tqdm", "quantvggt"),
    *("filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "setuptools", "sympy", "typing_extensions"),
}
LACKING = sorted({name for name in packages_distributions() if name.isidentifier()} - THERE)
BARE = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({LACKING}))  # importing them fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(folder: Path, *arguments: str) -> Path:
    output = folder / "gpu.jsonl"
    command = [sys.executable, "-c", BARE, str(BENCHMARK), "--device", "cpu", "--tiny"]
    command += ["--output", str(output), "--work", str(folder), *arguments]
    told = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-4000:]
    return output


def rows_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_kernels_are_right_and_a_second_run_only_adds_what_is_missing(tmp_path):
    rows = rows_of(run(tmp_path, "--part", "correctness"))
    assert [row for row in rows if not row.get("ok")] == []
    assert {row["key"].split("/")[1] for row in rows} == {
        "int_linear", "float8_linear", "rotate_quantize", "attention", "trunk"
    }  # fmt: skip
    lines = [json.dumps(row) + "\n" for row in rows]
    cut = lines[-1][: len(lines[-1]) // 2]
    (tmp_path / "gpu.jsonl").write_text("".join(lines[:-1]) + cut)
    run(tmp_path, "--part", "correctness")
    *kept, broken, added = (tmp_path / "gpu.jsonl").read_text().splitlines(keepends=True)
    assert (kept, broken) == (lines[:-1], cut + "\n")
    assert json.loads(added)["key"] == rows[-1]["key"]


def test_tables(tmp_path):
    rows = rows_of(run(tmp_path, "--part", "kernels"))
    assert [row for row in rows if "error" in row] == []
    assert {row["key"].split("/")[1] for row in rows} == {"int_linear", "rotate_quantize", "attention", "tiles"}


def test_passes_and_memory(tmp_path):
    run(tmp_path, "--part", "passes", "--side", "w4a4-attention8")
    rows = rows_of(run(tmp_path, "--part", "memory", "--side", "published-bf16"))
    assert [row["key"] for row in rows] == [
        "passes/w4a4-attention8/1 frames",
        "memory/published-bf16/2 GB",
    ]
    assert rows[0]["seconds"] > 0
    assert rows[1]["frames"] == 2


def test_all_of_that_was_on_a_bare_machine():
    assert {"scipy", "PIL", "av", "tabulate", "trimesh", "sklearn", "huggingface_hub"} <= set(LACKING)
