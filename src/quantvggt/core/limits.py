"""What this process may use of its machine: CPUs by affinity and by a container's quota, memory by a container's limit.

A container is a control group of Linux (cgroups(7)), of version 1 or 2; what limits a group limits those within it.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # by which a user sets PyTorch's threads


@dataclass(frozen=True)
class Limits:
    """cpus: seconds of them a second. memory: bytes in all. free: bytes of it still to be had. None: no limit."""

    cpus: float | None = None
    memory: int | None = None
    free: int | None = None


def limits(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> Limits:
    """The tightest of our groups'. groups: where they are mounted; membership: the file that names ours."""
    cpus, memory, free = list[float](), list[int](), list[int]()
    for folder in _folders(groups, membership, "cpu"):
        words = _words(folder / "cpu.max") or _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        quota, period = (_number(word) for word in words) if len(words) == 2 else (None, None)
        if quota and period:
            cpus.append(quota / period)
    for folder in _folders(groups, membership, "memory"):
        for limit_name, used_name, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _number(*_words(folder / limit_name)[:1])
            if limit is None:
                continue
            memory.append(limit)
            used = _number(*_words(folder / used_name)[:1])
            if used is not None:
                # Cached files count as used, but the system drops them where memory is needed.
                stat = _words(folder / "memory.stat")
                dropped = _number(*stat[stat.index(cache) + 1 :][:1]) if cache in stat else 0
                free.append(max(0, limit - used + (dropped or 0)))
    return Limits(min(cpus, default=None), min(memory, default=None), min(free, default=None))


def affinity() -> int:
    """How many CPUs this process may run on; all of the machine's where the system doesn't tell."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on macOS and Windows
        return os.cpu_count() or 1


def usable_cpus() -> int:
    """How many threads have a CPU's time each, a last one perhaps in part."""
    quota = limits().cpus
    return affinity() if quota is None else min(affinity(), max(1, math.ceil(quota)))


def keep_threads_to_cpus() -> None:
    """Have PyTorch start no more threads than that, unless the user has set their number by a variable."""
    count = usable_cpus()
    if torch.get_num_threads() > count and not any(map(os.environ.get, THREAD_VARIABLES)):
        torch.set_num_threads(count)


def _folders(groups: Path, membership: Path, controller: str) -> Iterator[Path]:
    """Those of the group that we are in for `controller`, and of all above it."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        # Version 2 has no names. Within a container the path may be the host's, whose folders aren't there.
        top = groups / controller if names else groups
        inner = Path(path.lstrip("/"))
        folder = top if ".." in inner.parts else top / inner
        yield from (each for each in (folder, *folder.parents) if each == top or top in each.parents)


def _words(file: Path) -> list[str]:
    """None of them where there is no such file."""
    try:
        return file.read_text().split()
    except OSError:
        return []


def _number(word: str = "") -> int | None:
    """None for what stands for no limit: "max", -1, or nothing."""
    return int(word) if word.isdecimal() else None
