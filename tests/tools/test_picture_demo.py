"""The README's pictures: each page through the browser that is on PATH, here one that paints the page's name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

TOOL = Path(__file__).parents[2] / "tools" / "picture_demo.py"
BROWSER = f"""#!{sys.executable}
import sys
from PIL import Image
options = dict(word.partition("=")[::2] for word in sys.argv[1:])
size = tuple(map(int, options["--window-size"].split(",")))
colour = {{"scene.html": "red", "report.html": "blue"}}[sys.argv[-1].rpartition("/")[2]]
Image.new("RGBA", size, colour).save(options["--screenshot"])
"""


def pictures(folder: Path, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, TOOL, folder / "demo", "--output", folder / "images"]
    return subprocess.run(command, env={**os.environ, "PATH": str(path)}, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "demo").mkdir()
    for name in ("scene", "report"):
        (tmp_path / "demo" / f"{name}.html").touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "chromium").write_text(BROWSER)
    (tmp_path / "bin" / "chromium").chmod(0o755)
    return tmp_path


def test_each_page_becomes_a_picture(folder: Path) -> None:
    done = pictures(folder, folder / "bin")
    assert done.returncode == 0, done.stderr
    for name, channel in (("scene", 0), ("report", 2)):
        with Image.open(folder / "images" / f"{name}.webp") as image:
            assert image.size[0] == 1280
            pixel = image.convert("RGB").getpixel((5, 5))
        assert pixel.index(max(pixel)) == channel


def test_what_is_missing_is_named(folder: Path) -> None:
    assert "no browser on PATH; install one of chromium" in pictures(folder, folder / "demo").stderr
    (folder / "demo" / "report.html").unlink()
    assert "has no report.html" in pictures(folder, folder / "bin").stderr
    assert not (folder / "images").exists()
