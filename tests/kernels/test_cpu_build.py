"""The library is built once, on first use, into the user's cache; without it the reference runs and says why. Every
path that the compiler has flags for has to compile.
"""

import ctypes
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import warnings

import pytest
import torch

from quantvggt.core.errors import InputError
from quantvggt.kernels import cpu, measured, ops, registry
from quantvggt.kernels.contract import RotateQuantize
from quantvggt.kernels.cpu import build, structs
from quantvggt.kernels.cpu.paths import LinearPath, RotatePath

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The bytes of a library built here, and what is missing in it."""
    if not any(map(shutil.which, build.COMPILERS)):
        pytest.skip("no C++ compiler")
    file, missing = build._build(build._compiler(), tmp_path_factory.mktemp("built"))
    return file.read_bytes(), missing


@pytest.mark.parametrize("path", build.ALL_PATHS)
def test_every_path_that_the_compiler_has_flags_for_compiles(built, path, tmp_path):
    _, missing = built
    if build.knows_flags(build._compiler(), path, tmp_path):
        assert path not in missing, missing.get(path)
    else:
        assert missing[path] == f"the C++ compiler is too old for {build.INSTRUCTIONS[path]}"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, nothing loaded, and a registry of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(registry, "_backends", {op: rows[-1:] for op, rows in registry._backends.items()})
    monkeypatch.setattr(registry, "_forced", None)
    monkeypatch.delenv(registry.ENVIRONMENT, raising=False)
    monkeypatch.setattr(build, "PREBUILT", tmp_path / "prebuilt")
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
        (folder / "kernels.so").write_bytes(built[0])
        return folder / "kernels.so", built[1]

    monkeypatch.setattr(build, "_build", instead)
    return calls


def _works():
    path = RotatePath("portable")
    assert path.available(CPU)[0]
    q, scale = path.run(RotateQuantize(torch.tensor([[127.0, -3.2]]), None, None, None, 8))
    return q.tolist() == [[127, -3]] and scale.item() == 1


def _files(cache):
    return sorted(cache.iterdir(), key=lambda file: file.suffix)


def test_built_once_then_taken_from_the_cache(cache, builds):
    assert _works()
    build.library.cache_clear()
    assert _works()
    assert len(builds) == 1
    assert [file.suffix for file in _files(cache)] == [".json", ".so"]


DAMAGE = [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:50] + b"x" + b[51:], lambda b: b"[1, 2]", None]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("suffix", [".so", ".json"])
def test_what_is_damaged_or_missing_is_built_again(cache, builds, suffix, damage):
    assert _works()
    before = {file: file.read_bytes() for file in _files(cache)}
    (file,) = (file for file in before if file.suffix == suffix)
    # Replaced, not written into: this process has the good file mapped.
    file.unlink()
    if damage:
        file.write_bytes(damage(before[file]))
    build.library.cache_clear()
    assert _works()
    assert len(builds) == 2
    assert {file: file.read_bytes() for file in _files(cache)} == before


def test_the_kept_reasons_are_those_of_the_kept_library(cache, builds):
    assert _works()
    json_file, library = _files(cache)
    kept = json.loads(json_file.read_text())
    assert kept["sha256"] == hashlib.sha256(library.read_bytes()).hexdigest()
    json_file.write_text(json.dumps({**kept, "missing": {"portable": "avx2.cpp:3: error: kept"}}))
    build.library.cache_clear()
    with pytest.warns(UserWarning, match="no native CPU kernels for portable C.*: avx2.cpp:3: error: kept"):
        assert LinearPath("portable").available(CPU) == (False, "avx2.cpp:3: error: kept")
    assert len(builds) == 1


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
        monkeypatch.setenv("CXX", shutil.which(compiler, path=os.defpath) or compiler)
    with pytest.warns(UserWarning, match=f"no native CPU kernels: .*{reason}"):
        assert registry.select("int_linear", CPU).name == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        q, _ = ops.rotate_quantize(torch.tensor([[127.0, -3.2]]), None, None, None, 8)
        rows = [row for row in registry.report() if row.op == "int_linear"]
    assert q.tolist() == [[127, -3]]
    assert {row.backend for row in rows if row.chosen} == {"reference"}
    assert all(re.search(reason, row.reason) for row in rows if row.backend == "cpu-portable")
    assert not list(cache.glob("*"))


def test_a_cache_that_cannot_be_written(cache, builds):
    cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match=r"cannot write .*quantvggt \(File exists\); XDG_CACHE_HOME"):
        assert registry.select("int_linear", CPU).name == "reference"
    assert not builds


def test_a_temporary_folder_of_somebody_else(cache, builds, monkeypatch):
    def refuse():
        raise InputError("/tmp/quantvggt-7 may be written by others")

    monkeypatch.setattr(build, "cache_folder", refuse)
    with pytest.warns(UserWarning, match="no native CPU kernels: /tmp/quantvggt-7 may be written by others"):
        assert registry.select("int_linear", CPU).name == "reference"
    assert not builds


@pytest.mark.skipif(not build.PREBUILT.is_dir(), reason="the package came without a prebuilt library")
def test_what_came_with_the_package_is_what_is_tested():
    library, reason = build.library()
    assert library is not None, reason
    assert library.origin == "prebuilt"


@pytest.fixture
def prebuilt(cache, built, monkeypatch):
    """The folder of a library that came with the package, to a machine without a compiler."""
    file, kept = build.PREBUILT / "kernels.so", build.PREBUILT / "kernels.json"
    build.PREBUILT.mkdir()
    file.write_bytes(built[0])
    kept.write_text(json.dumps(build.describe(file, built[1]) | {"sources": build.sources_digest()}))
    monkeypatch.setenv("CXX", "no-such-compiler")
    return build.PREBUILT


def test_a_prebuilt_library_comes_before_a_compiler(cache, prebuilt):
    assert _works()
    library, _ = build.library()
    assert (library.origin, library.native._name) == ("prebuilt", str(prebuilt / "kernels.so"))
    assert library.sha256 == hashlib.sha256((prebuilt / "kernels.so").read_bytes()).hexdigest()
    assert not cache.exists()


def _of_other_sources(folder):
    kept = folder / "kernels.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"sources": "others"}))


def _described_by_nobody(folder):
    (folder / "kernels.json").unlink()


def _cut_short(folder):
    file = folder / "kernels.so"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:1000])


def _of_another_system(folder):
    file, kept = folder / "kernels.so", folder / "kernels.json"
    file.unlink()
    file.write_bytes(b"not an ELF file")
    kept.write_text(json.dumps(json.loads(kept.read_text()) | build.describe(file, {})))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_of_other_sources, "the prebuilt library was built from other sources than those beside it"),
        (_described_by_nobody, "the prebuilt library is damaged"),
        (_cut_short, "the prebuilt library is damaged"),
        (_of_another_system, "the prebuilt library isn't usable here: cannot load"),
    ],
)
def test_a_prebuilt_library_that_does_not_fit_is_passed_over_and_says_why(
    cache, prebuilt, builds, monkeypatch, change, reason
):
    change(prebuilt)
    with pytest.warns(UserWarning, match="no native CPU kernels: CXX names no program") as warned:
        assert not LinearPath("portable").available(CPU)[0]
    assert reason in str(warned[0].message)
    monkeypatch.delenv("CXX")
    build.library.cache_clear()
    assert _works()
    library, _ = build.library()
    assert len(builds) == 1
    assert library.origin.startswith("built with ")
    assert reason in library.origin


def _compiler_that(refuses, folder, monkeypatch):
    """One that fails, with a message, on the files that the shell pattern `refuses` fits, and is quick on others."""
    if "avxvnni" not in build.PATHS:
        pytest.skip("not an x86 machine")
    if not any(map(shutil.which, build.COMPILERS)):
        pytest.skip("no C++ compiler")
    script = folder / "some-c++"
    refuse = f'case "$*" in {refuses}) echo "In some file:" >&2; echo "x.h:7: error: unknown" >&2; exit 1;; esac'
    script.write_text(f'#!/bin/sh\n{refuse}\nexec {build._compiler()[0]} "$@" -O0\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))


def test_a_compiler_too_old_for_one_path_builds_the_others(cache, monkeypatch, tmp_path):
    _compiler_that("*-mavxvnni*", tmp_path, monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _works()
    library, _ = build.library()
    assert library.missing == {"avxvnni": "the C++ compiler is too old for AVX-VNNI"}
    if library.native.avxvnni_supported():
        assert LinearPath("avxvnni").available(CPU) == (False, "the C++ compiler is too old for AVX-VNNI")


def test_a_path_whose_source_does_not_compile_says_the_compilers_first_error(cache, monkeypatch, tmp_path):
    _compiler_that("*avxvnni.cpp*", tmp_path, monkeypatch)
    for _ in range(2):  # built, then from the cache
        build.library.cache_clear()
        with pytest.warns(UserWarning, match="no native CPU kernels for AVX-VNNI: x.h:7: error: unknown"):
            assert _works()
        assert LinearPath("avxvnni").available(CPU) == (False, "x.h:7: error: unknown")
        reasons = {row.reason for row in registry.report() if row.backend == "cpu-avxvnni"}
        assert reasons == {"x.h:7: error: unknown"}


def test_structs_of_another_size_are_refused(cache, builds, monkeypatch):
    class Smaller(ctypes.Structure):
        _fields_ = (("x", ctypes.c_void_p),)

    monkeypatch.setitem(build.STRUCTS, "LinearArgs", Smaller)
    with pytest.warns(UserWarning, match=r"LinearArgs has \d+ bytes in the built library, 8 in Python"):
        assert registry.select("int_linear", CPU).name == "reference"


def test_structs_are_read_from_the_header():
    header = """
struct First {
    const float *a, *b; // two; pointers
    int64_t c, d;
    float e;
};
enum Kind : int64_t { ONE = 1 };
struct Second {
    void *x;            // another
};
"""
    first, second = structs.read_structs(header).values()
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    assert first.__name__ == "First"
    assert first._fields_ == [("a", pointer), ("b", pointer), ("c", number), ("d", number), ("e", ctypes.c_float)]
    assert second._fields_ == [("x", pointer)]
    assert set(structs.STRUCTS) == {"RotateArgs", "LinearArgs", "DequantizeArgs", "AttentionArgs"}
    assert structs.packer(first)(1 << 63, 2, -3, True, 0.5) == bytes(first(1 << 63, 2, -3, 1, 0.5))
    with pytest.raises(struct.error):
        structs.packer(first)(1, 2, 3, 4)


def test_other_devices_are_left_alone(cache, builds):
    assert LinearPath("portable").available(torch.device("cuda")) == (False, "CPU only")
    assert not builds


def test_importing_builds_and_measures_nothing(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop(measured.ENVIRONMENT, None)
    subprocess.run([sys.executable, "-c", "import quantvggt.kernels.ops"], check=True, env=environment)
    assert not list(tmp_path.iterdir())
