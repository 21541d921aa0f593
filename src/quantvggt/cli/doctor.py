"""quantvggt doctor"""

import argparse
import os
import platform
from typing import Any

import torch

from quantvggt import __version__
from quantvggt.cli.common import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt.kernels import ops, registry  # noqa: F401 - the ops register themselves

    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    kernels = [
        {"device": device, "op": row.op, "backend": row.backend, "chosen": row.chosen, "reason": row.reason}
        for device in devices
        for row in registry.report(device)
    ]
    result: dict[str, Any] = {
        "quantvggt": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": {
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
        },
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "kernels": kernels,
    }
    say(f"quantvggt {result['quantvggt']}, torch {result['torch']}, Python {result['python']}, {result['platform']}")
    say(f"CPU: {result['cpu']['capability']}, {result['cpu']['threads']} of {result['cpu']['cores']} threads")
    say(f"GPU: {', '.join(result['gpus']) or 'none'}")
    say("kernels (> runs):")
    for row in kernels:
        mark = ">" if row["chosen"] else " "
        say(f" {mark} {row['device']:7} {row['op']:16} {row['backend']:10} {row['reason']}")
    return result
