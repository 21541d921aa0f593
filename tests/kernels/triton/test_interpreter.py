"""The kernels on the CPU, under Triton's interpreter: it must be asked for before Triton is imported, so each file of
checks runs in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("interpreter")
CHECKOUT = Path(__file__).parents[3]


@pytest.mark.parametrize("file", sorted(path.name for path in CHECKS.glob("check_*.py")))
def test_checks(file: str) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(CHECKS / file)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    told = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout[-8000:] + told.stderr[-2000:]
