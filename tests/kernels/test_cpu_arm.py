"""What ARM's paths have beside what all have. Every test of the paths runs on them under qemu too (conftest.py)."""

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
