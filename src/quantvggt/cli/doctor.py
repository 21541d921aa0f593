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
from quantvggt.core.limits import affinity, limits
from quantvggt.core.memory import available_bytes, machine_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt.kernels import ops, registry  # noqa: F401 - the ops register themselves
    from quantvggt.kernels.cpu.build import library

    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    kernels = [{"device": device, **asdict(row)} for device in devices for row in registry.report(device)]
    measured = [asdict(each) for each in registry.times()]
    tiles = [_tiles(device) for device in devices if device != "cpu"]
    native, reason = library()
    container, machine = limits(), machine_bytes()
    # A limit above all that there is limits nothing.
    limit = container.memory if machine is None or (container.memory or 0) < machine else None
    result: dict[str, Any] = {
        "quantvggt": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": {
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "affinity": affinity(),
            "quota": container.cpus,
        },
        "memory": {
            "machine_bytes": machine,
            "limit_bytes": limit,
            "available_bytes": available_bytes(),
        },
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "native_library": {"file": native and native.native._name, "origin": native.origin if native else reason},
        "kernels": kernels,
        "measured": measured,
        "tiles": tiles,
    }
    say(f"quantvggt {result['quantvggt']}, torch {result['torch']}, Python {result['python']}, {result['platform']}")
    cpu, memory = result["cpu"], result["memory"]
    quota = "" if cpu["quota"] is None else f", a container's quota of {cpu['quota']:g}"
    say(
        f"CPU: {cpu['capability']}, {cpu['threads']} threads; {cpu['cores']} CPUs, {cpu['affinity']} by affinity{quota}"
    )
    sizes = {"of the machine": memory["machine_bytes"], "by a container's limit": limit}
    sizes["available"] = memory["available_bytes"]
    say("memory: " + (", ".join(f"{size / 1e9:.1f} GB {what}" for what, size in sizes.items() if size) or "unknown"))
    say(f"GPU: {', '.join(result['gpus']) or 'none'}")
    say(f"native library: {result['native_library']['origin']}")
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
    for each in tiles:
        of = f"tried out here for {each['shapes']} shapes" if each["shapes"] else "as known for such chips"
        say(f"tiles of products on {each['device']}: {of} (`quantvggt tune MODEL` tries them out)")
    if measured:
        say("measured on the CPU, milliseconds of one thread:")
    for each in measured:
        say(f"   {each['op']}, {each['step']} ({each['shape']})")
        for name, seconds in each["seconds"].items():
            say(f"     {name:29} {'not timed' if seconds is None else f'{1000 * seconds:9.2f}'}")
    return result


def _tiles(device: str) -> dict[str, Any]:
    """How many shapes of products have a tile that was tried out on this GPU."""
    from quantvggt.kernels.triton import tuned
    from quantvggt.kernels.triton.tiles import OLDEST

    place = torch.device(device)
    major, minor = torch.cuda.get_device_capability(place)
    shapes = len(tuned.chip(place).tuned) if 10 * major + minor >= OLDEST else 0
    return {"device": device, "shapes": shapes, "file": str(tuned.file_of(place)) if shapes else None}
