"""Compile the C++ beside this file into one shared library, once, and load it.

The library holds every path this machine's architecture knows, each compiled for its own instructions. It has
a plain C interface and no PyTorch or Python headers, so it compiles in seconds and fits any version of either. A wheel
may bring one (`prebuilt`). Otherwise it is kept in the user's cache under a hash of sources, compiler and flags, beside
a JSON file that says what the library's hash is and which paths are not in it, and why; nothing is built before the
first use.
"""

import ctypes
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from quantvggt.core.cache import cache_folder
from quantvggt.core.errors import InputError
from quantvggt.core.files import atomic_file
from quantvggt.kernels.cpu.structs import STRUCTS

SOURCES = Path(__file__).parent / "native"
PREBUILT = Path(__file__).parent / "prebuilt"  # in wheels only
COMPILERS = ("c++", "g++", "clang++")
# Contraction into fused multiply-adds would round once where the reference rounds twice.
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wno-psabi"]
FLAGS += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
AVX512 = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"]
PATH_FLAGS = {
    "amx": [*AVX512, "-mamx-tile", "-mamx-int8"],
    "avx512vnni": [*AVX512, "-mavx512vnni"],
    "avxvnni": ["-mavx2", "-mavxvnni"],
    "avx2": ["-mavx2"],
}
ARM_FLAGS = {
    "i8mm": ["-march=armv8.2-a+dotprod+i8mm"],
    "dotprod": ["-march=armv8.2-a+dotprod"],
}
LINK_FLAGS = ["-shared", "-pthread"]
ATTENTION_FLAGS = {
    "amxbf16": [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
    "avx512bf16": [*AVX512, "-mavx512bf16"],
}
ARM_ATTENTION_FLAGS = {"neonbf16": ["-march=armv8.2-a+bf16"]}
X86 = platform.machine().lower() in ("x86_64", "amd64")
ARM = platform.machine().lower() in ("aarch64", "arm64")
PATHS = (*(PATH_FLAGS if X86 else ARM_FLAGS if ARM else ()), "portable")  # of the integer ops, best first
INSTRUCTIONS = {
    "amx": "AMX-INT8",
    "amxbf16": "AMX-BF16",
    "avx512bf16": "AVX512-BF16",
    "avx512vnni": "AVX512-VNNI",
    "avxvnni": "AVX-VNNI",
    "avx2": "AVX2",
    "i8mm": "NEON I8MM",
    "dotprod": "the NEON dot product",
    "neonbf16": "NEON BF16",
    "portable": "portable C++",
}
ATTENTION_PATHS = tuple(ATTENTION_FLAGS if X86 else ARM_ATTENTION_FLAGS if ARM else ())  # best first
DEQUANTIZING_PATHS = tuple(path for path in PATHS if path != "amx")  # tiles only multiply
ALL_PATHS = (*PATHS, *ATTENTION_PATHS)


class BuildError(Exception):
    """Why there is no library, in one line."""


@dataclass(frozen=True)
class Library:
    """The loaded library, and path -> reason for those that are not in it.

    sha256: of its file. origin: how it came here, for people.
    """

    native: ctypes.CDLL
    missing: dict[str, str]
    sha256: str = ""
    origin: str = ""

    def usable(self, path: str) -> tuple[bool, str]:
        """Can this CPU run `path`, and why (not)?"""
        missing = self.missing.get(path)
        if missing is not None and missing != _too_old(path):
            return False, missing
        supported = getattr(self.native, f"{path}_supported")()
        if supported < 0:
            return False, f"the system does not let this process use {INSTRUCTIONS[path]}"
        if not supported:
            return False, f"this CPU has no {INSTRUCTIONS[path]}"
        return (False, missing) if missing else (True, f"native, {INSTRUCTIONS[path]}")


Loaded = tuple[Library | None, str]
"""The library, or None and the reason."""


@lru_cache
def library() -> Loaded:
    """Built if need be. What is not there for a reason that shouldn't be is also warned about, once."""
    try:
        found = _load_or_build()
    except BuildError as error:
        warnings.warn(f"no native CPU kernels: {error}; the slower PyTorch reference runs instead", stacklevel=2)
        return None, str(error)
    for path, reason in found.missing.items():
        if reason != _too_old(path):
            again = f"to build again, delete {cache_folder()}"
            warnings.warn(f"no native CPU kernels for {INSTRUCTIONS[path]}: {reason}; {again}", stacklevel=2)
    return found, ""


def _load_or_build() -> Library:
    found, reason = _prebuilt()
    if found is not None:
        return found
    try:
        return _built_here(reason)
    except BuildError as error:
        raise BuildError(f"{error}; {reason}" if reason else str(error)) from error


def _built_here(note: str) -> Library:
    """From the cache, or compiled into it. note: what else there is to say of its origin."""
    if platform.system() == "Windows":
        raise BuildError("they are built on Linux and macOS only")
    compiler = _compiler()
    try:
        path = cache_folder() / f"kernels-{_key(compiler)}.so"
    except InputError as error:
        raise BuildError(str(error)) from error
    kept = _kept(path)
    if kept is None:
        try:
            # Opened first, so that nothing is built in vain where nothing can be kept.
            with atomic_file(path) as target, tempfile.TemporaryDirectory() as folder:
                file, missing = _build(compiler, Path(folder))
                target.write_bytes(file.read_bytes())
                kept = describe(target, missing)
            with atomic_file(path.with_suffix(".json")) as target:
                target.write_text(json.dumps(kept))
        except (InputError, OSError) as error:
            cause = getattr(error.__cause__ or error, "strerror", None)
            raise BuildError(f"cannot write {path.parent} ({cause}); XDG_CACHE_HOME can name another place") from error
    return Library(
        load(path), kept["missing"], kept["sha256"], "; ".join(filter(None, (f"built with {compiler[0]}", note)))
    )


def _prebuilt() -> tuple[Library | None, str]:
    """The library that came with the package; or None, and why it isn't used if there is one."""
    path = PREBUILT / "kernels.so"
    if not path.exists():
        return None, ""
    kept = _kept(path)
    if kept is None:
        return None, "the prebuilt library is damaged"
    if kept.get("sources") != sources_digest():
        return None, "the prebuilt library was built from other sources than those beside it"
    try:
        return Library(load(path), kept["missing"], kept["sha256"], "prebuilt"), ""
    except BuildError as error:
        return None, f"the prebuilt library isn't usable here: {error}"


def load(path: Path) -> ctypes.CDLL:
    """Raises BuildError if the library doesn't load or has other structs than we."""
    try:
        native = ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"cannot load the built library: {error}") from error
    for name, struct in STRUCTS.items():
        size = getattr(native, f"{name}_size")()
        if size != ctypes.sizeof(struct):
            raise BuildError(f"{name} has {size} bytes in the built library, {ctypes.sizeof(struct)} in Python")
    pool = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    native.use_pool(pool and ctypes.cast(pool, ctypes.c_void_p))
    return native


def _compiler() -> list[str]:
    """The command that calls the C++ compiler: $CXX, else the first one found."""
    named = os.environ.get("CXX")
    for command in [shlex.split(named)] if named else [[name] for name in COMPILERS]:
        found = shutil.which(command[0]) if command else None
        if found:
            return [found, *command[1:]]
    raise BuildError(f"CXX names no program: {named!r}" if named else f"no C++ compiler ({', '.join(COMPILERS)}) found")


def _key(compiler: list[str]) -> str:
    binary = Path(compiler[0]).resolve()
    stat = binary.stat()
    identity = [sources_digest(), str(binary), stat.st_size, stat.st_mtime_ns, compiler[1:]]
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:32]


def sources_digest() -> str:
    """Of all that a library is made from, but the compiler."""
    flags = [FLAGS, LINK_FLAGS, PATH_FLAGS, ARM_FLAGS, ATTENTION_FLAGS, ARM_ATTENTION_FLAGS]
    digest = hashlib.sha256(repr([platform.machine(), *flags]).encode())
    for file in sorted(SOURCES.iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def describe(library: Path, missing: dict[str, str]) -> dict[str, Any]:
    """What is kept beside a library."""
    return {"sha256": hashlib.sha256(library.read_bytes()).hexdigest(), "missing": missing}


def _kept(path: Path) -> dict[str, Any] | None:
    """What is kept beside the library at `path`; None unless it is the one that was described, and whole: loading half
    a library could crash the process."""
    try:
        kept: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
        here = describe(path, {str(name): str(reason) for name, reason in kept["missing"].items()})
        return kept | here if kept["sha256"] == here["sha256"] else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _build(compiler: list[str], folder: Path) -> tuple[Path, dict[str, str]]:
    """Compile and link in `folder`: the library, and why paths are not in it."""
    jobs = {name: _compile(compiler, SOURCES / f"{name}.cpp", name, folder) for name in ("host", *ALL_PATHS)}
    messages = {name: job.communicate()[1] for name, job in jobs.items()}
    errors = {name: messages[name] for name, job in jobs.items() if job.returncode}
    for name in errors:
        if name in ("host", "portable"):
            raise BuildError(f"{compiler[0]} cannot compile {name}.cpp: {_first_error(errors[name])}")
    missing = {name: _too_old(name) for name in errors if not knows_flags(compiler, name, folder)}
    missing |= {name: _first_error(error) for name, error in errors.items() if name not in missing}
    objects = [str(folder / f"{name}.o") for name in jobs if name not in errors]
    link = _start([*compiler, *LINK_FLAGS, *objects, "-o", str(folder / "kernels.so")])
    error = link.communicate()[1]
    if link.returncode:
        raise BuildError(f"{compiler[0]} cannot link: {_first_error(error)}")
    return folder / "kernels.so", missing


def knows_flags(compiler: list[str], path: str, folder: Path) -> bool:
    """Does the compiler know the instructions of `path`? Asked with an empty file, made in `folder`."""
    empty = folder / "empty.cpp"
    empty.touch()
    job = _compile(compiler, empty, path, folder)
    job.communicate()
    return job.returncode == 0


def _compile(compiler: list[str], source: Path, path: str, folder: Path) -> "subprocess.Popen[str]":
    extra = (PATH_FLAGS | ARM_FLAGS | ATTENTION_FLAGS | ARM_ATTENTION_FLAGS).get(path, [])
    return _start([*compiler, *FLAGS, *extra, "-c", str(source), "-o", str(folder / f"{path}.o")])


def _start(command: list[str]) -> "subprocess.Popen[str]":
    try:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        raise BuildError(f"cannot run {command[0]}: {error.strerror}") from error


def _too_old(path: str) -> str:
    return f"the C++ compiler is too old for {INSTRUCTIONS[path]}"


def _first_error(text: str) -> str:
    lines = text.strip().splitlines() or ["no message"]
    return next((line for line in lines if "error" in line), lines[0]).strip()
