"""The demo, small: every checkpoint is there, measured as it lies on disk, and reported."""

import json

import pytest
import torch

from quantvggt import api
from quantvggt.calibrate.methods import find_method
from quantvggt.core.errors import InputError
from quantvggt.report.demo import METHODS, SCHEMES, run_demo


def test_a_small_demo_tells_the_whole_story(tmp_path, capsys):
    threads = torch.get_num_threads()
    folder = tmp_path / "demo"
    result = run_demo(folder, scenes=1, calibration=1)
    assert torch.get_num_threads() == threads

    assert json.loads((folder / "report.json").read_text()) == result
    rows = {(row["scheme"], row["method"]): row for row in result["rows"]}
    assert set(rows) == {("float32", "float")} | {(scheme, method) for scheme in SCHEMES for method in METHODS}
    base = rows.pop(("float32", "float"))
    for (scheme, method), row in rows.items():
        checkpoint = folder / "checkpoints" / f"{scheme}-{method}"
        assert row["checkpoint_bytes"] == sum(file.stat().st_size for file in checkpoint.iterdir())
        assert row["checkpoint_bytes"] < base["checkpoint_bytes"]
        record = api.load(checkpoint).quantization
        assert (record.scheme.name, record.method) == (scheme, find_method(method).name)
        assert row["drift_rotation_deg"] > 0
    assert rows["w8a8", "rtn"]["drift_depth"] < rows["w4a4", "rtn"]["drift_depth"]
    assert rows["w4a4", "dsfq"]["drift_depth"] < rows["w4a4", "rtn"]["drift_depth"]

    for name in ("report.html", "scene.html", "scene/points.ply", "scene/scene.glb", "scene/cameras.json"):
        assert (folder / name).stat().st_size > 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "AUC@30" in captured.err
    assert str(folder / "report.html") in captured.err


@pytest.mark.parametrize("counts", [{"scenes": 0}, {"calibration": 0}])
def test_a_demo_without_scenes_is_refused(counts, tmp_path):
    with pytest.raises(InputError, match="at least 1 scene"):
        run_demo(tmp_path / "demo", **counts)
    assert not (tmp_path / "demo").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot"):
        run_demo(tmp_path / "file" / "demo", scenes=1, calibration=1)
