"""What counts as the same code; and that every store names all the code that its entries depend on."""

import shutil
import sys
from pathlib import Path

import pytest

from quantvggt.calibrate.journal import ROOMS
from quantvggt.jobs import code
from quantvggt.jobs.code import PACKAGE, code_digest
from quantvggt.study.inputs import ANSWERS, SCENES

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from structure import arrows, below


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, whose code counts instead of its own."""
    copy = tmp_path / "copy"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", copy)
    return copy


def test_a_copy_elsewhere_is_the_same_code(package: Path) -> None:
    copied = code_digest(), code_digest("core", "kernels"), code_digest("api")
    code.PACKAGE = PACKAGE
    assert copied == (code_digest(), code_digest("kernels", "core"), code_digest("api"))
    assert len(set(copied)) == 3


@pytest.mark.parametrize("change", ["edit", "new", "renamed", "gone"])
@pytest.mark.parametrize("name", ["kernels/cpu/native/linear.h", "kernels/cpu/native/amx.cpp", "kernels/ops.py"])
def test_any_change_of_a_source_counts_in_its_room_only(package: Path, name: str, change: str) -> None:
    before = code_digest(), code_digest("kernels"), code_digest("core", "api")
    file = package / name
    if change == "edit":
        file.write_text(file.read_text() + "\n")
    elif change == "new":
        shutil.copy(file, file.with_stem("another"))
    elif change == "renamed":
        file.rename(file.with_stem("another"))
    else:
        file.unlink()
    assert code_digest() != before[0]
    assert code_digest("kernels") != before[1]
    assert code_digest("core", "api") == before[2]


def test_modules_are_rooms_and_other_files_dont_count(package: Path) -> None:
    before = code_digest("api", "viewer"), code_digest("study/inputs")
    (package / "viewer" / "page.html").write_text("")
    (package / "study" / "run.py").write_text("")
    assert (code_digest("api", "viewer"), code_digest("study/inputs")) == before
    (package / "api.py").write_text("")
    assert code_digest("api", "viewer") != before[0]


@pytest.mark.parametrize(
    ("rooms", "roots"),
    [(ROOMS, ["calibrate"]), (SCENES, ["scenes"]), (ANSWERS, ["api", "calibrate", "evaluate", "checkpoint", "scenes"])],
)
def test_stores_name_all_rooms_that_theirs_import(rooms: tuple[str, ...], roots: list[str]) -> None:
    assert below(arrows(PACKAGE), *roots) <= set(rooms)
    assert all((PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file() for room in rooms)
