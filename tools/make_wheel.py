"""A wheel with the native library inside, for machines without a compiler: python tools/make_wheel.py [--output dist]

Takes the pure wheel, adds the library that the C++ compiler here makes of the wheel's own sources, with every path of
this architecture in it, and lets auditwheel say from which Linux on it runs (the tag's manylinux_2_NN is a glibc
version). It has no Python headers, so one wheel serves every Python. Linux only; needs the "wheel" extra.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from quantvggt.kernels.cpu import build

CHECKOUT = Path(__file__).parents[1]
INSIDE = Path("quantvggt/kernels/cpu/prebuilt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=CHECKOUT / "dist", help="a folder (default: dist)")
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run("pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", name, str(CHECKOUT))
        (pure,) = folder.glob("*.whl")
        _run("wheel", "unpack", "--dest", name, str(pure))
        (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
        add_library(unpacked, folder)
        (folder / "linux").mkdir()
        _run("wheel", "pack", "--dest-dir", str(folder / "linux"), str(unpacked))
        (wheel,) = (folder / "linux").glob("*.whl")
        _run("auditwheel", "repair", "--wheel-dir", str(output), str(wheel))


def add_library(unpacked: Path, folder: Path) -> None:
    """Build in `folder` and put the library into the unpacked wheel, which is then one of this system."""
    library, missing = build._build(build._compiler(), folder)
    if missing:
        raise SystemExit("\n".join(f"{path}: {reason}" for path, reason in missing.items()))
    inside = unpacked / INSIDE
    inside.mkdir()
    kept = build.describe(library, missing) | {"sources": build.sources_digest()}
    (inside / "kernels.json").write_text(json.dumps(kept))
    library.rename(inside / "kernels.so")
    (about,) = unpacked.glob("*.dist-info/WHEEL")
    text = about.read_text().replace("Root-Is-Purelib: true", "Root-Is-Purelib: false")
    about.write_text(re.sub("^Tag: .*", f"Tag: py3-none-linux_{platform.machine()}", text, flags=re.MULTILINE))


def _run(module: str, *words: str) -> None:
    subprocess.run([sys.executable, "-m", module, *words], check=True)


if __name__ == "__main__":
    main()
