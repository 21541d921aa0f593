"""Other families than VGGT's go in chunks where memory is short, too."""

import json
from pathlib import Path

import pytest

import da3_recorded
import quantvggt as qv
from pi3_models import sane_pi3
from quantvggt.cli.main import main
from quantvggt.models import Model
from quantvggt.reconstruction.long import estimate
from quantvggt.reconstruction.scene import Scene
from reconstruction_photos import write_photo

COUNT = 14


@pytest.mark.parametrize("model", [da3_recorded.sane_model(), sane_pi3()], ids=lambda model: model.config.family)
def test_little_memory_makes_chunks(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(estimate, "resident_bytes", lambda: 0)
    qv.save(model, tmp_path / "model")
    for number in range(COUNT):
        write_photo(tmp_path / "photos" / f"{number:02d}.png", (56, 56), seed=number)
    five = estimate.estimate(model, 5, (56, 56), None, 1.0)
    assert five is not None
    allowed = five.bytes + 100_000
    memory = int(allowed / (1 - estimate.KEPT_FREE)) + 1
    command = ["reconstruct", str(tmp_path / "model"), str(tmp_path / "photos"), "--formats", "npz"]
    command += ["--dtype", "float32", "--json"]
    assert main([*command, "--output", str(tmp_path / "scene"), "--max-memory", str(memory)]) == 0
    output = capsys.readouterr()
    found = json.loads(output.out)
    size, height, width = found["chunking"]["size"], found["height"], found["width"]
    assert found["estimate"]["bytes"] <= allowed
    assert 3 <= size < COUNT
    assert f"{COUNT} frames of {width}x{height} in chunks of {size}" in output.err
    assert len(Scene.load(tmp_path / "scene").names) == found["frames"] == COUNT
