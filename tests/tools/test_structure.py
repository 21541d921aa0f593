"""The figures of a small house that is known."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from structure import Function, against, arrows, below, functions, levels, naming_vggt, sizes

TOOL = Path(__file__).parents[2] / "tools" / "structure.py"
CLIP = """class Clip:
    def cut(self, first, *rest, last=1, **more):

        def inner(a):
            return a

        return inner(first)


class Frame:
    pass
"""
FILES = {
    "src/quantvggt/__init__.py": '__version__ = "1"\n',
    "src/quantvggt/api.py": "from quantvggt.scenes.clip import Clip, Frame\n\nCLIP = Clip, Frame\n",
    "src/quantvggt/core/__init__.py": "",
    "src/quantvggt/core/files.py": "from quantvggt import __version__\n\nwritten = __version__\n",
    "src/quantvggt/scenes/__init__.py": "",
    "src/quantvggt/scenes/clip.py": CLIP,
    "src/quantvggt/scenes/fast.cpp": "int a;\nint b;\n",
    "src/quantvggt/models/__init__.py": "class VGGT:\n    pass\n",
    "docs/design.md": "# House\n\n```\nnot -> this\n```\n\n```\ncli ->\n    api -> scenes, models -> core\n```\n",
}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def run(house: Path) -> tuple[int, str]:
    told = subprocess.run([sys.executable, str(TOOL), str(house)], capture_output=True, text=True)
    return told.returncode, told.stdout


def test_rooms_arrows_and_functions(house: Path) -> None:
    package = house / "src" / "quantvggt"
    assert levels(house / "docs" / "design.md") == [{"cli"}, {"api"}, {"scenes", "models"}, {"core"}]
    assert arrows(package) == {("api", "scenes"): 2, ("core", "quantvggt"): 1}
    assert sizes(package) == {"quantvggt": (1, 1), "api": (1, 3), "core": (2, 3), "scenes": (3, 13), "models": (1, 2)}
    assert functions(package) == [Function("scenes.clip.Clip.cut", 6, 4), Function("scenes.clip.Clip.cut.inner", 2, 1)]
    assert naming_vggt(package) == []
    code, told = run(house)
    assert code == 0
    assert "against the order: none" in told
    assert "   6 scenes.clip.Clip.cut\n" in told


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("core/files.py", "import quantvggt.scenes.clip\n", ("core", "scenes")),
        ("scenes/clip.py", "def f():\n    from quantvggt.models import VGGT\n", ("scenes", "models")),
        ("scenes/clip.py", "from quantvggt import api\n", ("scenes", "api")),
        ("garden/tree.py", "from quantvggt.core.files import written\n", ("garden", "core")),
        ("api.py", "from quantvggt.garden import tree\n", ("api", "garden")),
    ],
)
def test_imports_against_the_order(house: Path, file: str, text: str, wrong: tuple[str, str]) -> None:
    package = house / "src" / "quantvggt"
    (package / "garden").mkdir()
    (package / file).write_text(text)
    assert against(levels(house / "docs" / "design.md"), arrows(package)) == [wrong]
    code, told = run(house)
    assert code == 1
    assert f"against the order: {wrong[0]} -> {wrong[1]}" in told
    assert naming_vggt(package) == (["quantvggt.scenes.clip"] if "VGGT" in text else [])


def test_what_lies_below_a_room() -> None:
    found = {("a", "b"): 1, ("b", "c"): 2, ("c", "b"): 1, ("d", "a"): 1, ("c", "quantvggt"): 1, ("quantvggt", "d"): 1}
    assert below(found, "a") == {"a", "b", "c"}
    assert below(found, "c", "d") == {"a", "b", "c", "d"}


def test_relative_imports_and_a_design_without_an_order_are_errors(house: Path) -> None:
    (house / "src" / "quantvggt" / "api.py").write_text("from . import core\n")
    with pytest.raises(ValueError, match=r"quantvggt\.api uses a relative import"):
        arrows(house / "src" / "quantvggt")
    (house / "docs" / "design.md").write_text("# House\n")
    with pytest.raises(ValueError, match="no block that starts with 'cli ->'"):
        levels(house / "docs" / "design.md")
