"""Compile the C++ beside this file into one shared library, once, and load it.

The library holds every path this machine's architecture knows, each compiled for its own instructions. It has
a plain C interface and no PyTorch headers, so it compiles in seconds and fits any torch version. It is kept in
the user's cache under a hash of sources, compiler and flags; nothing is built before the first use.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from quantvggt.core.errors import InputError
from quantvggt.core.files import atomic_file

SOURCES = Path(__file__).parent / "native"
COMPILERS = ("c++", "g++", "clang++")
# Contraction into fused multiply-adds would round once where the reference rounds twice.
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wno-psabi"]
FLAGS += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"]
PATH_FLAGS = {
    "amx": [*AVX512, "-mamx-tile", "-mamx-int8"],
    "avx512vnni": [*AVX512, "-mavx512vnni"],
    "avxvnni": ["-mavx2", "-mavxvnni"],
    "avx2": ["-mavx2"],
}
LINK_FLAGS = ["-shared", "-pthread", *([] if platform.system() == "Darwin" else ["-ldl"])]
ATTENTION_FLAGS = {
    "amxbf16": [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
    "avx512bf16": [*AVX512, "-mavx512bf16"],
}
X86 = platform.machine().lower() in ("x86_64", "amd64")
PATHS = (*(PATH_FLAGS if X86 else ()), "portable")  # of the integer ops, best first
INSTRUCTIONS = {
    "amx": "AMX-INT8",
    "amxbf16": "AMX-BF16",
    "avx512bf16": "AVX512-BF16",
    "avx512vnni": "AVX512-VNNI",
    "avxvnni": "AVX-VNNI",
    "avx2": "AVX2",
    "portable": "portable C++",
}
ATTENTION_PATHS = tuple(ATTENTION_FLAGS) if X86 else ()  # best first
_DIGEST_BYTES = hashlib.sha256().digest_size


class BuildError(Exception):
    """Why there is no library, in one line."""


@lru_cache
def library() -> tuple[ctypes.CDLL | None, str]:
    """The loaded library, or None and the reason, which is also warned about once."""
    try:
        return _load_or_build(), ""
    except BuildError as error:
        warnings.warn(f"no native CPU kernels: {error}; the slower PyTorch reference runs instead", stacklevel=2)
        return None, str(error)


def usable(path: str, op: str) -> tuple[bool, str]:
    """Can this CPU run `op` on `path`, and why (not)? The first call builds the library."""
    native, reason = library()
    if native is None:
        return False, reason
    supported = getattr(native, f"{path}_supported")()
    if supported < 0:
        return False, f"the system does not let this process use {INSTRUCTIONS[path]}"
    if not supported:
        return False, f"this CPU has no {INSTRUCTIONS[path]}"
    if not hasattr(native, f"{path}_{op}"):
        return False, f"the C++ compiler is too old for {INSTRUCTIONS[path]}"
    return True, f"native, {INSTRUCTIONS[path]}"


def function(path: str, op: str) -> Callable[[Any], None]:
    """The native function of a usable path; it takes a reference to the op's arguments (native/args.h)."""
    native, _ = library()
    found: Any = getattr(native, f"{path}_{op}")
    found.restype = None
    return found


def cache_folder() -> Path:
    """Where built libraries are kept: $XDG_CACHE_HOME/quantvggt, else ~/.cache/quantvggt."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "quantvggt"


def _load_or_build() -> ctypes.CDLL:
    if platform.system() == "Windows":
        raise BuildError("they are built on Linux and macOS only")
    compiler = _compiler()
    path = cache_folder() / f"kernels-{_key(compiler)}.so"
    if not _intact(path):
        try:
            # Opened first, so that nothing is built in vain where nothing can be kept.
            with atomic_file(path) as target, tempfile.TemporaryDirectory() as folder:
                built = _build(compiler, Path(folder)).read_bytes()
                target.write_bytes(built + hashlib.sha256(built).digest())
        except (InputError, OSError) as error:
            reason = getattr(error.__cause__ or error, "strerror", None)
            raise BuildError(f"cannot write {path.parent} ({reason}); XDG_CACHE_HOME can name another place") from error
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"cannot load the built library: {error}") from error


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
    identity = [platform.machine(), str(binary), stat.st_size, stat.st_mtime_ns, compiler[1:], FLAGS, LINK_FLAGS]
    digest = hashlib.sha256(repr([*identity, PATH_FLAGS, ATTENTION_FLAGS]).encode())
    for file in sorted(SOURCES.iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:32]


def _intact(path: Path) -> bool:
    """Does the file end in the hash of what comes before? Loading half a library could crash the process."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-_DIGEST_BYTES]).digest() == content[-_DIGEST_BYTES:]


def _build(compiler: list[str], folder: Path) -> Path:
    """Compile and link in `folder`. A path the compiler is too old for is left out."""
    jobs = {}
    for name in ("host", *PATHS, *ATTENTION_PATHS):
        extra = (PATH_FLAGS | ATTENTION_FLAGS).get(name, [])
        command = [*compiler, *FLAGS, *extra, "-c", str(SOURCES / f"{name}.cpp")]
        jobs[name] = _start([*command, "-o", str(folder / f"{name}.o")])
    errors = {name: job.communicate()[1] for name, job in jobs.items()}
    for name in ("host", "portable"):
        if jobs[name].returncode:
            raise BuildError(f"{compiler[0]} cannot compile {name}.cpp: {_first_error(errors[name])}")
    objects = [str(folder / f"{name}.o") for name, job in jobs.items() if not job.returncode]
    link = _start([*compiler, *LINK_FLAGS, *objects, "-o", str(folder / "kernels.so")])
    error = link.communicate()[1]
    if link.returncode:
        raise BuildError(f"{compiler[0]} cannot link: {_first_error(error)}")
    return folder / "kernels.so"


def _start(command: list[str]) -> "subprocess.Popen[str]":
    try:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        raise BuildError(f"cannot run {command[0]}: {error.strerror}") from error


def _first_error(text: str) -> str:
    lines = text.strip().splitlines() or ["no message"]
    return next((line for line in lines if "error" in line), lines[0]).strip()
