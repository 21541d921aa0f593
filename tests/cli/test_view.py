"""quantvggt view and app: which of page and viewer is meant, what is asked of the machine, what is told."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from quantvggt.cli.main import main
from truth_scene import small_scene

COMMAND = [sys.executable, "-m", "quantvggt.cli.main"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("scenes")
    small_scene().save(folder / "float")
    small_scene().transformed(2.0).save(folder / "small")
    return [str(folder / "float"), str(folder / "small")]


def mistake(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("words", [["--no-open"], ["--page", "--no-open"], ["--page"]])
def test_a_page_is_written_where_one_is_meant(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, scenes: list[str], words: list[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    assert main(["view", scenes[0], *words, "--max-points", "100", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    page = Path(scenes[0]) / "scene.html"
    assert told == {"page": str(page), "frames": 3}
    assert page.is_file()
    assert opened == ([] if "--no-open" in words else [page.as_uri()])
    page.unlink()


def test_without_viser_a_page_is_written_and_the_extra_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, scenes: list[str]
) -> None:
    monkeypatch.setattr("quantvggt.viewer.live.server.find_spec", lambda _: None)
    monkeypatch.setattr("webbrowser.open", lambda _: True)
    assert main(["view", scenes[0]]) == 0
    assert "pip install 'quantvggt[view]'" in capsys.readouterr().err
    (Path(scenes[0]) / "scene.html").unlink()
    for words in ([scenes[0], "--live"], scenes):
        assert "pip install 'quantvggt[view]'" in mistake(capsys, "view", *words)
    monkeypatch.setattr("quantvggt.serve.app.find_spec", lambda _: None)
    assert "pip install 'quantvggt[app]'" in mistake(capsys, "app")


def test_mistakes(capsys: pytest.CaptureFixture[str], scenes: list[str], tmp_path: Path) -> None:
    assert "choose one" in mistake(capsys, "view", scenes[0], "--live", "--page")
    assert "a page shows one scene" in mistake(capsys, "view", *scenes, "--page")
    assert "give one, or two" in mistake(capsys, "view", *scenes, scenes[0])
    pytest.importorskip("viser", reason="no viser: pip install 'quantvggt[view]'")
    assert "no saved scene" in mistake(capsys, "view", str(tmp_path), "--live")
    assert "cannot listen on 192.0.2.1" in mistake(capsys, "view", scenes[0], "--live", "--host", "192.0.2.1")
    pytest.importorskip("gradio", reason="no gradio: pip install 'quantvggt[app]'")
    assert "cannot read the logins" in mistake(capsys, "app", "--login", str(tmp_path / "gone"))
    assert "queue is 0" in mistake(capsys, "app", "--queue", "0")
    assert "no checkpoint at" in mistake(capsys, "app", "--model", str(tmp_path / "gone"))


def interrupted(words: list[str], *, expect: str, number: int = signal.SIGINT) -> tuple[dict[str, object], str]:
    """Start a command, open what it says once it has said so, send the signal: its JSON, and all that it said."""
    process = subprocess.Popen(
        [*COMMAND, *words, "--no-open", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
    )
    assert process.stderr is not None
    said = ""
    while not (found := re.search(r"http://127\.0\.0\.1:\d+", said)):
        line = process.stderr.readline()
        assert line, said
        said += line
    with urllib.request.urlopen(found[0], timeout=60) as answer:  # waits where it is only about to start
        assert expect in answer.read().decode()
    process.send_signal(number)
    said += process.stderr.read()
    assert process.wait(timeout=60) == 0, said
    assert process.stdout is not None
    return json.loads(process.stdout.read()), said


def test_two_scenes_are_shown_until_ctrl_c(scenes: list[str]) -> None:
    pytest.importorskip("viser", reason="no viser: pip install 'quantvggt[view]'")
    told, said = interrupted(["view", *scenes, "--live", "--port", "18200", "--max-points", "900"], expect="<iframe")
    assert (told["page"], told["frames"], told["points"], told["scale"]) == (None, 3, [900, 900], None)
    assert told["difference"] == pytest.approx(0, abs=1e-5)
    assert "median distance between the scenes" in said


def test_the_app_runs_until_it_is_asked_to_end_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio", reason="no gradio: pip install 'quantvggt[app]'")
    monkeypatch.setitem(os.environ, "TMPDIR", str(tmp_path))
    told, _ = interrupted(["app", "--port", "18220"], expect="gradio", number=signal.SIGTERM)
    assert told["models"] == ["vggt-nano"]
    assert [path.name for path in tmp_path.iterdir() if "torchinductor" not in path.name] == []  # that is PyTorch's
