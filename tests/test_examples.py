"""Every example runs."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> Callable[..., None]:
    """The `main` of an example file."""
    (path,) = EXAMPLES.glob(f"{name}_*.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[..., None] = module.main
    return main


def test_photos_to_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("01")(output=str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} >= {"checkpoint", "cameras.json", "colmap", "points.ply"}
    assert "points.ply" in capsys.readouterr().out


def test_compare_schemes(capsys: pytest.CaptureFixture[str]) -> None:
    example("02")(scenes=1, schemes=("w8a8",))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["w8a8", method] for method in ("rtn", "dsfq", "best")]


def test_where_the_outliers_are(capsys: pytest.CaptureFixture[str]) -> None:
    example("03")()
    assert capsys.readouterr().out.count("48 layers") == 2


def test_no_example_is_forgotten() -> None:
    assert {path.name[:2] for path in EXAMPLES.glob("*.py")} == {"01", "02", "03"}
