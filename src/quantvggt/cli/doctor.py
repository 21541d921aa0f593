"""quantvggt doctor"""

import argparse
import os
import platform
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch

from quantvggt import __version__
from quantvggt.cli.common import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt.kernels import ops, registry  # noqa: F401 - the ops register themselves

    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    kernels = [{"device": device, **asdict(row)} for device in devices for row in registry.report(device)]
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
    for (device, op), rows in groupby(kernels, itemgetter("device", "op")):
        alike: dict[tuple[str, ...], list[str]] = {}
        for step, backends in groupby(rows, itemgetter("step")):
            lines = (f" {'>' if row['chosen'] else ' '}   {row['backend']:16} {row['reason']}" for row in backends)
            alike.setdefault(tuple(lines), []).append(step)
        for lines_of_steps, steps in alike.items():
            say(f"   {device}, {op} ({'; '.join(steps)})")
            for line in lines_of_steps:
                say(line)
    return result
