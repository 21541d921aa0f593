import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from _pytest.mark import ParameterSet

import kernel_on_arm as arm
import kernel_paths
from kernel_paths import CPU, require
from quantvggt.kernels import registry
from quantvggt.kernels.contract import Backend
from quantvggt.kernels.cpu import build
from quantvggt.kernels.cpu.build import ATTENTION_PATHS, DEQUANTIZING_PATHS, PATHS, X86
from quantvggt.kernels.cpu.paths import AttentionPath, CpuPath, DequantizePath, LinearPath, RotatePath

EMULATED = " on emulated tiles"
INTEGER_BACKENDS = (*PATHS, *([f"amx{EMULATED}"] if X86 else []))
ATTENTION_BACKENDS = (*ATTENTION_PATHS, *([f"amxbf16{EMULATED}"] if X86 else []), "reference")


ON_ARM = " under qemu"


def _on_arm(paths: Iterable[str]) -> list[ParameterSet]:
    """They are slow."""
    return [pytest.param(f"{path}{ON_ARM}", marks=pytest.mark.slow) for path in paths]


@pytest.fixture(params=(*INTEGER_BACKENDS, *_on_arm(arm.PATHS)))
def cpu_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of each path in turn, forced for both integer ops; skipped where this CPU lacks it."""
    yield from _forced(request, monkeypatch, RotatePath, LinearPath)


@pytest.fixture(params=(*ATTENTION_BACKENDS, *_on_arm(arm.ATTENTION_PATHS)))
def attention_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each backend of attention in turn, forced; skipped where this CPU lacks it."""
    yield from _forced(request, monkeypatch, AttentionPath)


@pytest.fixture(params=(*DEQUANTIZING_PATHS, "reference"))
def dequantizing_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each backend that makes weights floats in turn, forced; skipped where this CPU lacks it."""
    yield from _forced(request, monkeypatch, DequantizePath)


@pytest.fixture(params=(*INTEGER_BACKENDS, "reference"))
def integer_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The paths and the reference."""
    yield from _forced(request, monkeypatch, RotatePath, LinearPath)


def _forced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, *kinds: type[CpuPath]) -> Iterator[str]:
    name = request.param
    added: list[Backend] = []
    if name.endswith(EMULATED):
        library = request.getfixturevalue("amx_library")
        for kind in kinds:
            backend = kind(name.removesuffix(EMULATED), lambda: (library, ""))
            backend.name = name
            can, reason = backend.available(CPU)
            assert can, reason
            registry.register(kind.OP, backend)
            added.append(backend)
        kernel_paths.emulated.add(name.removesuffix(EMULATED))
    elif name.endswith(ON_ARM):
        program = request.getfixturevalue("arm_program")
        for kind in kinds:
            backend = arm.backend(kind, name.removesuffix(ON_ARM), program, monkeypatch)
            backend.name = name
            registry.register(kind.OP, backend)
            added.append(backend)
        kernel_paths.emulated.add(name)
    elif name != "reference":
        for kind in kinds:
            require(kind(name))
        name = f"cpu-{name}"
    monkeypatch.setattr(registry, "_forced", name)
    yield name
    for kind, backend in zip(kinds, added, strict=False):
        registry.remove(kind.OP, backend)


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def same_bits():
    def check(got, expected):
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        flat = [tensor.contiguous().flatten().view(torch.uint8) for tensor in (got, expected)]
        assert torch.equal(*flat)

    return check


@pytest.fixture(scope="session")
def amx_library(tmp_path_factory: pytest.TempPathFactory) -> build.Library:
    """The AMX paths, with their tile instructions in plain C++."""
    require(LinearPath("avx512vnni"))  # what the rest of the paths needs
    if not any(map(shutil.which, build.COMPILERS)):
        pytest.skip("no C++ compiler")
    file = tmp_path_factory.mktemp("amx") / "amx.so"
    bf16 = AttentionPath("avx512bf16").available(CPU)[0]
    sources = [str(build.SOURCES / name) for name in ("amx.cpp", "host.cpp", *(["amxbf16.cpp"] if bf16 else []))]
    flags = [*build.FLAGS, *build.AVX512, *(["-mavx512bf16"] if bf16 else []), *build.LINK_FLAGS, "-DEMULATE_AMX"]
    subprocess.run([*build._compiler(), *flags, *sources, "-o", str(file)], check=True)
    return build.Library(build.load(file), {} if bf16 else {"amxbf16": "this CPU has no AVX512-BF16"})


@pytest.fixture(scope="session")
def arm_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return arm.compile_program(tmp_path_factory.mktemp("arm"))
