"""What models really need at once, in a process of its own: `python peaks.py CASE` prints it as JSON."""

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantvggt.core.memory import peak_memory
from quantvggt.models import VGGTConfig
from quantvggt.models.da3 import DA3Config
from quantvggt.models.family import ModelConfig
from quantvggt.models.pi3.config import Pi3Config, Pi3XConfig
from quantvggt.models.seeded import seeded_model

HEIGHT, WIDTH = 210, 280
_M_MMAP_THRESHOLD = -3  # of mallopt(3)
_PI3: dict[str, Any] = {
    "embed_dim": 384,
    "encoder_depth": 2,
    "encoder_num_heads": 6,
    "depth": 4,
    "num_heads": 6,
    "head_dim": 384,
    "head_depth": 1,
    "head_num_heads": 6,
    "point_out": 384,
    "camera_out": 192,
}
CASES: dict[str, tuple[ModelConfig, tuple[int, ...]]] = {
    "da3-small": (DA3Config.small(), (2, 6)),
    # Where blocks need more than the dense head.
    "da3-wide": (replace(DA3Config.base(), depth=4, start=1, layers=(0, 1, 2, 3), features=16), (4, 16)),
    "pi3": (Pi3Config(**_PI3), (4, 16)),
    "pi3x": (Pi3XConfig(**_PI3, head_channels=(96, 48, 32), metric_dim=192, metric_num_heads=3, pose_after=()), (2, 6)),
    "vggt": (
        VGGTConfig(
            embed_dim=384, depth=4, num_heads=6, patch_embed="conv", dpt_features=64,
            dpt_out_channels=(48, 96, 192, 384),
            dpt_layers=(0, 1, 2, 3), heads=("camera", "depth"),
        ),
        (2, 6),
    ),
}  # fmt: skip
"""By name: a config, and numbers of frames."""


def peaks_of(case: str) -> list[dict[str, int | None]]:
    """Of each number of frames `frames`, `told` (working memory and answers) and `peak` (None where the system doesn't
    tell), in bytes.

    In a process that gives freed memory back at once: what C's allocator keeps instead is no need of the model's.
    """
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    told = subprocess.run([sys.executable, __file__, case], env=environment, check=True, capture_output=True, text=True)
    found: list[dict[str, int | None]] = json.loads(told.stdout)
    return found


def _measured(case: str) -> list[dict[str, int | None]]:
    torch.set_num_threads(1)  # on a busy machine two mostly wait for each other
    if sys.platform == "linux":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 65536)
    config, counts = CASES[case]
    model, found = seeded_model(config), []
    with torch.inference_mode():
        for frames in counts:
            images = torch.rand(1, frames, 3, HEIGHT, WIDTH)
            model.answers(images[:, :1])
            with peak_memory() as peak:
                answers = model.answers(images)
            said = sum(value.nbytes for value in vars(answers).values() if isinstance(value, Tensor))
            working = model.working_bytes(frames, HEIGHT, WIDTH)
            assert working is not None
            found.append({"frames": frames, "told": working + said, "peak": peak.bytes})
    return found


if __name__ == "__main__":
    print(json.dumps(_measured(sys.argv[1])))
