"""Which commit the code is of, as git says itself; and which processor runs it."""

import subprocess
from pathlib import Path

import pytest

from quantvggt.core.machine import processor, source_commit


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(autouse=True)
def anew() -> None:
    source_commit.cache_clear()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout" / "src" / "package"
    folder.mkdir(parents=True)
    git(tmp_path / "checkout", "init", "--quiet")
    (tmp_path / "checkout" / ".gitignore").write_text("installed\n")
    for file in (folder / "__init__.py", tmp_path / "checkout" / "results.json"):
        file.write_text("")
    git(tmp_path / "checkout", "add", ".")
    git(tmp_path / "checkout", "commit", "--quiet", "--message", "all")
    return folder


def test_a_checkout_is_its_commit(package: Path) -> None:
    commit = git(package, "rev-parse", "HEAD")
    assert source_commit(package) == commit
    (package.parents[1] / "results.json").write_text("not code")
    source_commit.cache_clear()
    assert source_commit(package) == commit


@pytest.mark.parametrize("name", ["__init__.py", "new.py"])
def test_an_edited_one_says_so(package: Path, name: str) -> None:
    (package / name).write_text("changed = True\n")
    assert source_commit(package) == git(package, "rev-parse", "HEAD") + "+changes"


def test_what_is_in_no_checkout_has_none(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = package.parents[1] / "installed" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "__init__.py").write_text("")
    assert source_commit(installed) is source_commit(tmp_path / "alone") is source_commit(tmp_path / "gone") is None
    monkeypatch.setenv("PATH", "")
    assert source_commit(package) is None


def test_processors_of_both_kinds_of_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr("platform.processor", lambda: "")
    file = tmp_path / "cpuinfo"
    assert processor(file) == "aarch64"
    file.write_text("processor\t: 0\nmodel name\t: Some CPU: fast\n\nprocessor\t: 1\nmodel name\t: Some CPU: fast\n")
    assert processor(file) == "Some CPU: fast"
    file.write_text("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n\nprocessor\t: 1\n")
    assert processor(file) == "aarch64, implementer 0x41, part 0xd40"
