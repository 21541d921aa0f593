"""CPUs and memory as control groups limit them, read from trees of files as Linux lays them out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quantvggt.core import limits as module
from quantvggt.core import memory
from quantvggt.core.limits import Limits, affinity, keep_threads_to_cpus, limits, usable_cpus

UNLIMITED_V1 = 9223372036854771712  # what version 1 says where there is no limit


def tree(root: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    """What `limits` takes."""
    groups = root / "groups"
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text)
    (root / "membership").write_text(membership)
    return groups, root / "membership"


def test_version_2_in_a_container_of_its_own(tmp_path: Path) -> None:
    files = {
        "cpu.max": "150000 100000\n",
        "memory.max": "4000000000\n",
        "memory.current": "3000000000\n",
        "memory.stat": "anon 1000000000\ninactive_file 500000000\nactive_file 7\n",
    }
    assert limits(*tree(tmp_path, "0::/\n", files)) == Limits(1.5, 4 * 10**9, 15 * 10**8)


def test_version_2_limits_of_groups_above_hold_too(tmp_path: Path) -> None:
    files = {
        "pods/cpu.max": "200000 100000\n",
        "pods/mine/cpu.max": "max 100000\n",
        "pods/memory.max": "1000\n",
        "pods/memory.current": "990\n",
        "pods/mine/memory.max": "500\n",
        "pods/mine/memory.current": "100\n",
        "elsewhere/cpu.max": "1 100000\n",
    }
    assert limits(*tree(tmp_path, "0::/pods/mine\n", files)) == Limits(2, 500, 10)


V1 = {
    "cpu/jobs/cpu.cfs_quota_us": "50000\n",
    "cpu/jobs/cpu.cfs_period_us": "100000\n",
    "memory/jobs/memory.limit_in_bytes": "8000\n",
    "memory/jobs/memory.usage_in_bytes": "9000\n",
    "memory/jobs/memory.stat": "cache 5\ninactive_file 100\ntotal_inactive_file 4000\n",
    "memory/memory.limit_in_bytes": f"{UNLIMITED_V1}\n",
    "memory/memory.usage_in_bytes": "12000\n",
}


def test_version_1(tmp_path: Path) -> None:
    membership = "5:memory:/jobs\n4:cpu,cpuacct:/jobs\n3:pids:/\n0::/\n"
    assert limits(*tree(tmp_path, membership, V1)) == Limits(0.5, 8000, 3000)


def test_version_1_without_a_quota(tmp_path: Path) -> None:
    files = V1 | {"cpu/jobs/cpu.cfs_quota_us": "-1\n"}
    assert limits(*tree(tmp_path, "5:memory:/other\n4:cpu:/jobs\n", files)).cpus is None


@pytest.mark.parametrize("path", ["/docker/1234", "/../../docker/1234"])
def test_a_path_of_the_host_means_what_is_mounted_here(tmp_path: Path, path: str) -> None:
    membership = f"5:memory:{path}\n4:cpu:{path}\n"
    files = {name.replace("jobs/", ""): text for name, text in list(V1.items())[:5]}
    assert limits(*tree(tmp_path, membership, files)) == Limits(0.5, 8000, 3000)
    (tmp_path / "2").mkdir()
    assert limits(*tree(tmp_path / "2", f"0::{path}\n", {"cpu.max": "300000 100000\n"})) == Limits(3)


def test_no_groups_no_limits(tmp_path: Path) -> None:
    assert limits(tmp_path / "none", tmp_path / "none") == Limits()
    assert limits(*tree(tmp_path, "0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"})) == Limits()
    assert limits(*tree(tmp_path, "0::/\n", {"cpu.max": "\n", "memory.max": "what?\n"})) == Limits()


def test_memory_left_is_the_lesser_of_the_systems_and_the_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = tmp_path / "meminfo"
    system.write_text("MemTotal:       2000 kB\nMemAvailable:   1000 kB\n")
    monkeypatch.setattr(memory, "_SYSTEM", system)
    for free, least in ((None, 1_024_000), (5_000_000, 1_024_000), (70, 70), (0, 0)):
        monkeypatch.setattr(memory, "limits", lambda free=free: Limits(free=free))
        assert memory.available_bytes() == least
    assert memory.machine_bytes() == 2_048_000
    monkeypatch.setattr(memory, "_SYSTEM", tmp_path / "none")
    assert memory.available_bytes() == 0
    monkeypatch.setattr(memory, "limits", Limits)
    assert memory.available_bytes() is None


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_threads_follow_quota_and_affinity(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in module.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for has, quota, usable in ((8, None, 8), (8, 2.5, 3), (8, 0.2, 1), (2, 7.0, 2)):
        monkeypatch.setattr(module, "affinity", lambda has=has: has)
        monkeypatch.setattr(module, "limits", lambda quota=quota: Limits(cpus=quota))
        assert usable_cpus() == usable
    torch.set_num_threads(4)
    keep_threads_to_cpus()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    keep_threads_to_cpus()
    assert torch.get_num_threads() == 1, "never more than PyTorch would"


@pytest.mark.parametrize("name", module.THREAD_VARIABLES)
def test_the_users_own_number_of_threads_wins(threads: None, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(module, "usable_cpus", lambda: 1)
    torch.set_num_threads(4)
    monkeypatch.setenv(name, "4")
    keep_threads_to_cpus()
    assert torch.get_num_threads() == 4


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_affinity_is_this_processes() -> None:
    code = (
        "import os; from quantvggt.core.limits import affinity; "
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(affinity())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["1"]
    assert affinity() == len(os.sched_getaffinity(0))
