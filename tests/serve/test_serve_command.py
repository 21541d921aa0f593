"""`quantvggt serve` as people start it: in a process of its own, stopped, killed, started again."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import quantvggt as qv
from quantvggt.cli.main import main
from quantvggt.serve.server import listen
from tiny import sane_model

sys.path.insert(0, str(Path(__file__).parent))

from running import as_form, picture, until

PAIR = [("a.png", picture(1)), ("b.png", picture(2))]
COMMAND = [sys.executable, "-m", "quantvggt.cli.main", "serve"]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """home/, with a model in it, and tmp/."""
    qv.save(sane_model(), tmp_path / "home" / "tiny")
    (tmp_path / "tmp").mkdir()
    return tmp_path


def with_a_read_only_root(folder: Path) -> list[str]:
    """In front of a command: it may write into `folder`, where it finds an empty file system, and nowhere else."""
    mount = 'mount -t tmpfs none "$0" && mount -o remount,ro,bind / && exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", mount, str(folder)]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True).returncode != 0:
        pytest.skip("a read-only root takes unshare(1) and the right to mount: root's, in no strict container")
    return words


@contextmanager
def started(
    house: Path, *words: str, within: Sequence[str] = ()
) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    gone = {"XDG_CACHE_HOME", "QUANTVGGT_API_KEY", "TMPDIR", "HOME"}
    kept = {key: value for key, value in os.environ.items() if key not in gone}
    python_path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**kept, "HOME": str(house / "home"), "TMPDIR": str(house / "tmp"), "PYTHONPATH": python_path}
    command = [*within, *COMMAND, "tiny", "--port", "0", "--json", *words]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=house / "home", **pipes) as server:
        assert server.stderr is not None
        try:
            line = server.stderr.readline()
            address = re.search(r" at (http://[\d.:]+)", line)
            assert address, line + server.stderr.read()
            with httpx.Client(base_url=address[1], timeout=60) as client:
                yield server, client
        finally:
            server.kill()


def test_it_writes_into_the_temporary_folder_alone_and_stops_when_told(house: Path) -> None:
    before = sorted((house / "home").rglob("*"))
    with started(house, within=with_a_read_only_root(house / "tmp")) as (server, client):
        answer = client.post("/v1/jobs", files=as_form(PAIR), data={"formats": "ply,page"}).raise_for_status()
        place = answer.headers["location"]
        assert until(lambda: _ended(client.get(place).json()))["state"] == "done"
        assert client.get(f"{place}/result").status_code == 200
        server.send_signal(signal.SIGTERM)
        out, _ = server.communicate(timeout=60)
        assert server.returncode == 0
    assert json.loads(out)["model"] == "tiny"
    assert sorted((house / "home").rglob("*")) == before


@pytest.mark.slow
def test_a_server_that_was_killed_goes_on_with_what_it_had_accepted(house: Path) -> None:
    words = ("--folder", str(house / "tmp" / "jobs"))
    places = []
    with started(house, *words) as (server, client):
        for index in range(3):  # its worker is still loading
            files = as_form([(f"{index}.png", picture(index)), PAIR[0]])
            answer = client.post("/v1/jobs", files=files, data={"formats": "tum"}).raise_for_status()
            places.append(answer.headers["location"])
        server.send_signal(signal.SIGKILL)
        server.wait(60)
    with started(house, *words) as (server, client):
        for index, place in enumerate(places):
            status = until(lambda place=place: _ended(client.get(place).json()))
            assert (status["state"], status["files"]) == ("done", [f"{index}.png", "a.png"])


def _ended(status: dict[str, Any]) -> dict[str, Any] | None:
    return status if status["finished"] else None


def mistake(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["serve", *words]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    return output.err.strip()


def test_mistakes_are_told_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QUANTVGGT_API_KEY", raising=False)
    assert "put an API key into QUANTVGGT_API_KEY" in mistake(capsys, "vggt-nano", "--host", "0.0.0.0")
    assert "cannot read --api-key-file" in mistake(capsys, "vggt-nano", "--api-key-file", str(tmp_path / "none"))
    (tmp_path / "key").write_text("short\n")
    assert "openssl rand -hex 32" in mistake(capsys, "vggt-nano", "--api-key-file", str(tmp_path / "key"))
    monkeypatch.setenv("QUANTVGGT_API_KEY", "a key with blanks in it")
    assert "the API key in QUANTVGGT_API_KEY" in mistake(capsys, "vggt-nano")
    monkeypatch.delenv("QUANTVGGT_API_KEY")
    assert "no checkpoint at" in mistake(capsys, str(tmp_path / "model"), "--port", "0")
    assert "queue is 0; it must be above 0" in mistake(capsys, "vggt-nano", "--queue", "0")
    assert "--max-request many: write a size" in mistake(capsys, "vggt-nano", "--max-request", "many")
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1 port {port}" in mistake(capsys, "vggt-nano", "--port", port)
    (tmp_path / "file").touch()
    line = mistake(capsys, "vggt-nano", "--port", "0", "--folder", str(tmp_path / "file"))
    assert f"cannot write into {tmp_path / 'file'}" in line


def test_without_its_extra_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "quantvggt.serve.server")
    monkeypatch.delattr("quantvggt.serve.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'quantvggt[serve]'" in mistake(capsys, "vggt-nano")
