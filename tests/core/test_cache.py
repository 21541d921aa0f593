"""The cache folder of users with a home and of those without."""

import os
import stat
from pathlib import Path

import pytest

from quantvggt.core.cache import cache_folder
from quantvggt.core.errors import InputError


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty temporary folder, a user whom the system doesn't know, and no variable that names a place."""
    pwd = pytest.importorskip("pwd")

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    return tmp_path / f"quantvggt-{os.getuid()}"


def test_variables_come_first(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/quantvggt")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/quantvggt")
    assert not temporary.exists()


@pytest.mark.parametrize("home", [None, "/"])
def test_without_a_home_a_folder_for_us_alone(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    if home is not None:
        monkeypatch.setenv("HOME", home)
    assert cache_folder() == temporary
    assert stat.S_IMODE(temporary.lstat().st_mode) == 0o700
    assert cache_folder() == temporary, "the same one again"


def test_what_others_could_have_put_there_is_refused(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary.mkdir()
    temporary.chmod(0o777)
    with pytest.raises(InputError, match="may be written by others; XDG_CACHE_HOME can name another place"):
        cache_folder()
    temporary.chmod(0o700)
    assert cache_folder() == temporary
    with monkeypatch.context() as patched:
        mine, theirs = os.getuid(), os.getuid() + 1
        temporary.rename(temporary.with_name(f"quantvggt-{theirs}"))
        patched.setattr(os, "getuid", lambda: theirs)  # of the folder's owner, who is still `mine`
        with pytest.raises(InputError, match=f"quantvggt-{theirs} may be written by others"):
            cache_folder()
    assert os.getuid() == mine
    temporary.symlink_to(temporary.with_name(f"quantvggt-{theirs}"))
    with pytest.raises(InputError, match="may be written by others"):
        cache_folder()


def test_a_file_in_its_place(temporary: Path) -> None:
    temporary.write_text("not a folder")
    with pytest.raises(InputError, match=r"cannot make .* \(File exists\); XDG_CACHE_HOME"):
        cache_folder()
