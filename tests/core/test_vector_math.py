"""The first vector-math calls of a process are accurate on every thread, so that every run gives the same bits."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quantvggt.core import vector_math

TESTS = Path(__file__).parents[1]

# The parent only imports, so that each of its forks is as fresh as a process of its own.
FRESH_PASSES = """
import hashlib, os
import torch
import seeded
from quantvggt.models import VGGTConfig
from tiny import CONFIG, tiny_model

def run() -> None:
    torch.set_num_threads(2)
    # 69 tokens of 64 numbers: enough for cos to run on both threads
    config = VGGTConfig(**{**CONFIG.to_dict(), "num_heads": 1, "heads": ("camera",)})
    model, images = tiny_model(config), torch.from_numpy(seeded.images("fresh", 1, 1, 112, 112))
    with torch.inference_mode():
        pose = model(images)["pose_enc"]
    print(hashlib.sha256(pose.numpy().tobytes()).hexdigest(), flush=True)

torch.ones(1, device="meta") * 2  # the first such product imports a lot, which need not happen 20 times
for _ in range(20):
    if (child := os.fork()) == 0:
        run()
        os._exit(0)
    os.waitpid(child, 0)
"""


def run(code: str) -> list[str]:
    code = f"import sys; sys.path.insert(0, {str(TESTS)!r})\n{code}"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="forks processes")
def test_a_pass_gives_the_same_bits_in_every_process() -> None:
    hashes = run(FRESH_PASSES)
    assert len(hashes) == 20
    assert len(set(hashes)) == 1


def test_making_a_model_warms_up_and_importing_does_not() -> None:
    count = "print(warm_up.cache_info().currsize)"
    make = 'with torch.device("meta"): VGGT(CONFIG)'
    imports = "import torch; from quantvggt.core.vector_math import warm_up; from tiny import CONFIG, VGGT"
    assert run(f"{imports}; {count}\n{make}\n{count}") == ["0", "1"]


def test_warm_up_computes_on_the_cpu_whatever_the_default_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(vector_math, "FUNCTIONS", (seen.append,))
    with torch.device("meta"):
        vector_math.warm_up.__wrapped__()
    assert [(x.device.type, x.dtype, x.numel()) for x in seen] == [("cpu", torch.float32, 1), ("cpu", torch.float64, 1)]


def test_no_function_is_forgotten() -> None:
    header = Path(torch.__file__).parent / "include" / "ATen" / "cpu" / "vml.h"
    if not header.exists():
        pytest.skip("this PyTorch comes without its headers")
    names = re.findall(r"^IMPLEMENT_VML_MKL\((\w+),", header.read_text(), re.MULTILINE)
    assert {"cos", "exp"} <= set(names) <= {function.__name__ for function in vector_math.FUNCTIONS}
