"""The house rules about imports (docs/design.md): who may import whom, and what importing costs."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import quantvggt

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import structure

SOURCE = Path(quantvggt.__file__).parent
CHECKOUT = Path(__file__).parents[1]


def test_imports_run_one_way() -> None:
    order = structure.levels(CHECKOUT / "docs" / "design.md")
    rooms = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file()}
    assert sorted([*rooms, "api"]) == sorted(room for level in order for room in level), "a room without one place"
    assert structure.against(order, structure.arrows(SOURCE)) == []


def test_the_public_face_is_used_by_models_only_to_save() -> None:
    """Nobody below imports the package's lazy face, with the one exception that docs/design.md names."""
    users = {
        file.relative_to(SOURCE).as_posix()
        for file in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import) and any(alias.name == "quantvggt" for alias in node.names)
    }
    assert users == {"models/vggt/model.py"}


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "plotly", "trimesh", "av", "PIL", "huggingface_hub")
    assert run(f"import sys, quantvggt; print([m for m in {heavy} if m in sys.modules])") == "[]"


def test_importing_every_room_starts_no_gpu_no_viewer_and_no_network_library() -> None:
    code = (
        "import sys, torch, quantvggt, quantvggt.api; "
        "print(torch.cuda.is_initialized(), [m for m in ('plotly', 'huggingface_hub', 'trimesh') if m in sys.modules])"
    )
    assert run(code) == "False []"


def test_public_names_are_what_they_say() -> None:
    names = "load, select_calibration, quantize, save, reconstruct, Scheme, Scene, InputError, QuantVGGTError"
    assert run(f"from quantvggt import {names}; print(callable(reconstruct))") == "True"
    # A subpackage of the same name would shadow a public function once something has imported it.
    assert run("import quantvggt as qv, quantvggt.api; print(type(qv.reconstruct).__name__)") == "function"


def test_type_checkers_are_told_the_same_names() -> None:
    (told,) = (
        node
        for node in ast.parse(Path(quantvggt.__file__).read_text()).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    imports = [node for node in told.body if isinstance(node, ast.ImportFrom)]
    assert {alias.asname: node.module for node in imports for alias in node.names} == quantvggt._PUBLIC


USER = """
import quantvggt as qv

model = qv.load("vggt-nano")
reveal_type(qv.quantize(model, "w4a4", budget=3))
reveal_type(qv.Scheme.parse("w4a4").act_bits)
qv.quantize(model, "w4a4", budget="650MB")
qv.save(model)
qv.quantise(model)
"""


def test_type_checkers_see_signatures(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "mypy.ini").write_text("[mypy]\n[mypy-torch.*,numpy.*,PIL.*]\nfollow_imports = skip\n")
    command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", "--no-error-summary", "user.py"]
    environment = {**os.environ, "MYPYPATH": str(SOURCE.parent)}
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    lines = [line for line in told.stdout.splitlines() if line.startswith("user.py")]
    assert [re.sub(r"^user.py:(\d+): (\w+): .*", r"\1 \2", line) for line in lines] == [
        "5 note", "6 note", "7 error", "8 error", "9 error",
    ], told.stdout + told.stderr  # fmt: skip
    assert 'Revealed type is "quantvggt.models.' in lines[0]
    assert "int" in lines[1]
    assert 'expected "int | None"' in lines[2]
    assert "Missing positional argument" in lines[3]
    assert "has no attribute" in lines[4]
