"""The house rules about imports (docs/design.md): who may import whom, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import quantvggt

SOURCE = Path(quantvggt.__file__).parent

# Each room may import the rooms of the lines below its own, and itself.
LEVELS = [
    {"cli"},
    {"viewer", "study", "bench", "report"},
    {"evaluate"},
    {"api"},
    {"reconstruction", "calibrate", "checkpoint"},
    {"scenes", "models"},
    {"nn"},
    {"kernels"},
    {"core"},
]
# Beyond the levels: a report embeds the viewer's figure of a scene.
ALLOWED = {("report", "viewer")}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "quantvggt"


def imports() -> set[tuple[str, str]]:
    found = set()
    for file in SOURCE.rglob("*.py"):
        module = "quantvggt." + ".".join(file.relative_to(SOURCE).with_suffix("").parts)
        for node in ast.walk(ast.parse(file.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} uses a relative import"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {(room_of(module), room_of(name)) for name in names if name.split(".")[0] == "quantvggt"}
    return found


def test_imports_run_one_way() -> None:
    level = {room: index for index, rooms in enumerate(LEVELS) for room in rooms}
    rooms = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file()}
    assert rooms | {"api"} == set(level), "a room without a place in the order"
    for room, other in imports():
        if room == other or room not in level or other not in level or (room, other) in ALLOWED:
            continue
        assert level[room] < level[other], f"{room} must not import {other}"


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
