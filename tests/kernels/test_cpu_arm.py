"""What ARM's paths have beside what all have. Every test of the paths runs on them under qemu too (conftest.py)."""

import json
import subprocess
import sys

import pytest

import kernel_on_arm as arm
from quantvggt.kernels.cpu import build, proof
from quantvggt.kernels.cpu.paths import AttentionPath, LinearPath, RotatePath

KINDS = [(kind, path) for kind in (LinearPath, RotatePath) for path in build.ARM_FLAGS]
KINDS += [(AttentionPath, path) for path in arm.ATTENTION_PATHS]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "path"), KINDS)
def test_passes_its_own_proof_under_qemu(kind, path, arm_program, monkeypatch):
    assert path in proof.UNPROVEN
    assert arm.backend(kind, path, arm_program, monkeypatch)._agrees()


BUILD = """
import json, pathlib, platform, sys
platform.machine = lambda: "aarch64"
from quantvggt.kernels import ops, registry
from quantvggt.kernels.cpu import build
_, missing = build._build([sys.argv[1]], pathlib.Path(sys.argv[2]))
names = {op: [each.name for each in backends] for op, backends in registry._backends.items()}
print(json.dumps({"missing": missing, "names": names}))
"""


@pytest.mark.slow
def test_an_arm_machine_has_every_path_for_qemu(tmp_path):
    arm.require_tools()
    words = [sys.executable, "-c", BUILD, arm.COMPILER, str(tmp_path)]
    got = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
    native = {op: [name for name in names if name.startswith("cpu")] for op, names in got["names"].items()}
    integers = ["cpu-i8mm", "cpu-dotprod", "cpu-portable"]
    with_integers = dict.fromkeys(("rotate_quantize", "int_linear", "dequantize_weight"), integers)
    assert native == {**with_integers, "attention": ["cpu-neonbf16"], "float8_linear": []}
    assert not got["missing"]
    assert (tmp_path / "kernels.so").exists()
