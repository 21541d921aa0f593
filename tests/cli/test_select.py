"""quantvggt select: what it writes, and that quantize reads it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import quantvggt as qv
from quantvggt.checkpoint.load import load
from quantvggt.cli.main import main
from quantvggt.jobs.store import Store
from quantvggt.scenes.calibration import calibration_clips
from tiny import sane_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    qv.save(sane_model(), folder)
    return str(folder)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scenes of three photos in two categories."""
    root = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(0)
    for scene in range(10):
        folder = root / ("chair", "table")[scene % 2] / f"scene{scene}"
        folder.mkdir(parents=True)
        for index in range(3):
            Image.fromarray(rng.integers(0, 255, (50, 60, 3), np.uint8)).save(folder / f"{index}.png")
    return root


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_workers_choose_the_same_and_look_at_no_clip_twice(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--size", "4", "--frames", "2", "--clusters", "3")
    alone, shared = tmp_path / "alone.json", tmp_path / "shared.json"
    expected = run_json(capsys, "select", model, str(pool), str(alone), *options)
    write, written = Store.write_tensors, list[str]()

    def watched(self: Store, name: str, *values: Any) -> None:
        if len(written) == 4:
            written.append("interrupted")
            raise KeyboardInterrupt
        write(self, name, *values)
        written.append(name)

    monkeypatch.setattr(Store, "write_tensors", watched)
    words = ("select", model, str(pool), str(shared), *options, "--workers", "1")
    assert main(list(words)) == 1
    assert len(list((tmp_path / "shared.json.unfinished").iterdir())) == 4
    result = run_json(capsys, *words)
    assert len(written) == 10 + 1
    assert result["indices"] == expected["indices"]
    assert json.loads(shared.read_text())["clips"] == json.loads(alone.read_text())["clips"]
    assert not (tmp_path / "shared.json.unfinished").exists()


def test_from_a_folder_of_scenes_to_a_checkpoint(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, pool: Path
) -> None:
    output, plots = tmp_path / "chosen.json", tmp_path / "plots"
    words = ("select", model, str(pool), str(output), "--size", "4", "--frames", "2", "--clusters", "3")
    result = run_json(capsys, *words, "--plots", str(plots))
    assert (result["pool"], result["passed"], result["size"]) == (10, 8, 4)
    values = json.loads(output.read_text())
    assert [clip["index"] for clip in values["clips"]] == result["indices"]
    assert (values["strategy"], values["seed"], values["settings"]["clusters"]) == ("nfds", 0, 3)
    page = (plots / "selection.html").read_text()
    for clip in values["clips"]:
        assert f"<td>{clip['index']}</td>" in page
        assert f"<td>{clip['score']:.2f}</td>" in page
    small = tmp_path / "small"
    assert run_json(capsys, "quantize", model, str(small), "--calibration", str(output))["clips"] == 4
    record = load(small).quantization
    assert record is not None
    told = record.calibration["clips"]
    assert [clip["frames"] for clip in told] == [clip.names for clip in calibration_clips(output)]
    assert str(tmp_path) not in json.dumps(record.to_dict())
    assert str(pool) not in json.dumps(record.to_dict())


@pytest.mark.parametrize("strategy", ["random", "filtered", "clustered", "label", "feature"])
def test_every_strategy_draws_a_page(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, pool: Path, strategy: str
) -> None:
    words = ("select", model, str(pool), str(tmp_path / "set.json"), "--size", "3", "--frames", "2")
    variant = (
        "--rule",
        "iqr",
        "--correlation",
        "tokenwise",
        "--strategy",
        strategy,
        "--plots",
        str(tmp_path / "plots"),
    )
    assert run_json(capsys, *words, *variant)["strategy"] == strategy
    assert (tmp_path / "plots" / "selection.html").stat().st_size > 1_000_000  # plotly is inside


def mistake(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    return output.err.strip().splitlines()[-1]


def test_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, pool: Path) -> None:
    words = ("select", model, str(pool))
    output = str(tmp_path / "set.json")
    assert "name a .json file" in mistake(capsys, *words, str(tmp_path / "set"))
    assert "unknown sampling strategy" in mistake(capsys, *words, output, "--strategy", "best")
    assert "--size 11: the pool has 10 clips" in mistake(capsys, *words, output, "--size", "11")
    assert "drop is 2" in mistake(capsys, *words, output, "--drop", "2")
    assert "clusters is 0" in mistake(capsys, *words, output, "--clusters", "0")
    assert "gone" in mistake(capsys, "select", model, str(tmp_path / "gone"), output)
    assert "8 are left of a pool of 10" in mistake(capsys, *words, output, "--size", "9", "--frames", "2")
    assert not (tmp_path / "set.json").exists()
    (tmp_path / "set.json").write_text("mine")
    assert "exists already" in mistake(capsys, *words, output)
    assert (tmp_path / "set.json").read_text() == "mine"
    (tmp_path / "folder.json").mkdir()
    assert "it is a folder" in mistake(capsys, *words, str(tmp_path / "folder.json"))
