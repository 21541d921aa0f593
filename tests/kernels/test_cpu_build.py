"""The library is built once, on first use, into the user's cache; without it the reference runs and says why."""

import os
import re
import shutil
import subprocess
import sys
import warnings

import pytest
import torch

from quantvggt.kernels import cpu, ops, registry
from quantvggt.kernels.cpu import build
from quantvggt.kernels.cpu.paths import CpuPath

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The bytes of a library built here."""
    if not any(shutil.which(name) for name in build.COMPILERS):
        pytest.skip("no C++ compiler")
    return build._build(build._compiler(), tmp_path_factory.mktemp("built")).read_bytes()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, nothing loaded, and a registry of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(registry, "_backends", {op: rows[-1:] for op, rows in registry._backends.items()})
    monkeypatch.setattr(registry, "_forced", None)
    monkeypatch.delenv(registry.ENVIRONMENT, raising=False)
    cpu.register()
    build.library.cache_clear()
    yield tmp_path / "quantvggt"
    build.library.cache_clear()


@pytest.fixture
def builds(monkeypatch, built):
    """How often a library was built; what comes out is `built`."""
    calls = []

    def instead(compiler, folder):
        calls.append(compiler)
        (folder / "kernels.so").write_bytes(built)
        return folder / "kernels.so"

    monkeypatch.setattr(build, "_build", instead)
    return calls


def _works():
    path = CpuPath("portable")
    assert path.check(CPU)[0]
    q, scale = path.rotate_quantize(torch.tensor([[127.0, -3.2]]), None, None, None, 8)
    return q.tolist() == [[127, -3]] and scale.item() == 1


def test_built_once_then_taken_from_the_cache(cache, builds):
    assert _works()
    build.library.cache_clear()
    assert _works()
    assert len(builds) == 1
    assert [file.suffix for file in cache.iterdir()] == [".so"]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:5000] + b"x" + b[5001:]])
def test_a_damaged_library_is_built_again(cache, builds, damage):
    assert _works()
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    # Replaced, not written into: this process has the good file mapped.
    file.unlink()
    file.write_bytes(damage(whole))
    build.library.cache_clear()
    assert _works()
    assert len(builds) == 2
    assert file.read_bytes() == whole


def test_another_compiler_or_source_is_another_library(cache, monkeypatch, tmp_path):
    key = build._key([sys.executable])
    assert key == build._key([sys.executable])
    assert key != build._key([sys.executable, "-m32"])
    shutil.copytree(build.SOURCES, tmp_path / "native")
    (tmp_path / "native" / "args.h").write_text("// changed")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "native")
    assert key != build._key([sys.executable])


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        (None, r"no C\+\+ compiler \(c\+\+, g\+\+, clang\+\+\) found"),
        ("no-such-compiler -O1", "CXX names no program: 'no-such-compiler -O1'"),
        ("false", "false cannot compile host.cpp: no message"),
    ],
)
def test_without_a_compiler_the_reference_runs_and_says_why_once(cache, monkeypatch, tmp_path, compiler, reason):
    if compiler is None:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setenv("CXX", compiler)
    with pytest.warns(UserWarning, match=f"no native CPU kernels: .*{reason}"):
        assert registry.select("int_linear", CPU).name == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        q, _ = ops.rotate_quantize(torch.tensor([[127.0, -3.2]]), None, None, None, 8)
        rows = {row.backend: row for row in registry.report() if row.op == "int_linear"}
    assert q.tolist() == [[127, -3]]
    assert rows["reference"].chosen
    assert re.search(reason, rows["cpu-portable"].reason)
    assert not list(cache.glob("*"))


def test_a_cache_that_cannot_be_written(cache, builds):
    cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match=r"cannot write .*quantvggt \(File exists\); XDG_CACHE_HOME"):
        assert registry.select("int_linear", CPU).name == "reference"
    assert not builds


def test_a_compiler_too_old_for_one_path_builds_the_others(cache, monkeypatch, tmp_path):
    if "avxvnni" not in build.PATHS:
        pytest.skip("not an x86 machine")
    if not any(map(shutil.which, build.COMPILERS)):
        pytest.skip("no C++ compiler")
    old = tmp_path / "old-c++"
    refuse = 'case "$*" in *avxvnni*.cpp*) echo "error: unknown" >&2; exit 1;; esac'
    old.write_text(f'#!/bin/sh\n{refuse}\nexec {build._compiler()[0]} "$@" -O0\n')
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    assert _works()
    native, _ = build.library()
    assert not hasattr(native, "avxvnni_int_linear")
    if native.avxvnni_supported():
        assert CpuPath("avxvnni").check(CPU) == (False, "the C++ compiler is too old for AVX-VNNI")


def test_other_devices_are_left_alone(cache, builds):
    assert CpuPath("portable").check(torch.device("cuda")) == (False, "CPU only")
    assert not builds


def test_importing_builds_nothing(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import quantvggt.kernels.ops"], check=True, env=environment)
    assert not list(tmp_path.iterdir())
