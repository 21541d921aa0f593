"""quantvggt evaluate: models on the same frames, nothing measured twice, nothing judged on what it learnt from."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import quantvggt as qv
from clusters import cluster_of
from dataset_minis import write_mini
from quantvggt.checkpoint.config import CONFIG_NAME
from quantvggt.cli.main import main
from quantvggt.evaluate import comparison
from quantvggt.evaluate.run import evaluate, predict
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clips
from tiny import sane_model

SCENES, FRAMES = 3, 3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A float model, and one quantized from it."""
    folder = tmp_path_factory.mktemp("models")
    qv.save(sane_model(), folder / "exact")
    qv.save(qv.quantize(sane_model(), "w4a4", "rtn", progress=False), folder / "small")
    return str(folder / "exact"), str(folder / "small")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_mini("colmap", tmp_path_factory.mktemp("colmap"), SCENES, FRAMES))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantvggt.cli.compare.cache_folder", lambda: tmp_path / "cache")


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first frame of every clip that a model of this process is shown."""
    seen: list[str] = []

    def watched(model: Any, clips: Any, progress: bool = True) -> Any:
        seen.extend(clip.names[0] for clip in clips)
        return predict(model, clips, progress)

    monkeypatch.setattr(comparison, "predict", watched)
    return seen


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    def run(*words: str, code: int = 0) -> dict[str, Any]:
        assert main(["evaluate", *words, "--json"]) == code
        captured = capsys.readouterr()
        result: dict[str, Any] = json.loads(captured.out) if code < 2 else {}
        return {**result, "said": captured.err}

    return run


def synthetic(count: int = SCENES) -> tuple[str, ...]:
    return "--scenes", str(count), "--frames", str(FRAMES), "--dtype", "float32"


def test_a_row_is_what_scoring_all_clips_at_once_gives(run: Any, models: tuple[str, str]) -> None:
    exact, small = models
    clips = make_clips(range(HELD_OUT_SEED, HELD_OUT_SEED + SCENES), FRAMES, 70)
    reference = predict(qv.load(exact, dtype=torch.float32), clips, progress=False)
    known = {"name": small, "method": "rtn", "scheme": "w4a4", "seed": 0}
    size = sum(file.stat().st_size for file in Path(small).iterdir())
    expected = evaluate(qv.load(small), clips, reference, **known, checkpoint_bytes=size, progress=False)
    row = run(small, *synthetic(), "--reference", exact)
    assert {key: row[key] for key in expected} == pytest.approx(expected, abs=1e-6)
    assert list(row)[: len(expected)] == list(expected)
    assert (row["dataset"], row["protocol"], row["relpose"]) == ("synthetic", "synthetic", "vggt")
    assert (row["scenes"], row["frames"]) == (SCENES, SCENES * FRAMES)
    alone = run(small, *synthetic())
    assert [alone[f"drift_{kind}"] for kind in ("rotation_deg", "translation_deg", "depth")] == [None] * 3
    assert "drift can't be measured" in alone["said"]
    assert run(exact, *synthetic())["drift_depth"] == 0


def test_statistics_and_the_report_are_there(run: Any, models: tuple[str, str], tmp_path: Path) -> None:
    exact, small = models
    result = run(exact, small, *synthetic(), "--reference", exact, "-o", str(tmp_path))
    full, other = result["rows"]
    assert (full["method"], full["difference"], other["method"]) == ("float", None, "rtn")
    low, high = other["intervals"]["depth_absrel"]
    assert low <= other["depth_absrel"] <= high
    value, low, high = other["difference"]["depth_absrel"]
    assert value == pytest.approx(other["depth_absrel"] - full["depth_absrel"])
    assert low <= value <= high
    assert full["drift_depth"] == 0 < other["drift_depth"]
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["rows"] == result["rows"]
    assert kept["drawn"] == {str(HELD_OUT_SEED + scene): [0, 1, 2] for scene in range(SCENES)}
    page = (tmp_path / "report.html").read_text()
    assert "calibrated without any clip" in page
    assert "small" in page
    single = run(small, *synthetic(), "--reference", exact)
    assert f"{100 * single['intervals']['auc30'][0]:.1f} to" in single["said"]


def test_what_is_measured_is_not_measured_again(
    run: Any, models: tuple[str, str], tmp_path: Path, predicted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, small = models
    words = (*synthetic(), "--reference", exact, "-o", str(tmp_path))
    measure = comparison._measure

    def interrupted(*given: Any) -> Any:
        if len(predicted) == 4:
            raise KeyboardInterrupt
        return measure(*given)

    with monkeypatch.context() as patch:
        patch.setattr(comparison, "_measure", interrupted)
        assert main(["evaluate", small, *words]) == 1
    assert len(predicted) == 4
    whole = run(small, *words)
    assert len(predicted) == 2 * SCENES, "a scene was measured again"
    assert rows(run(small, *words)) == rows(whole)
    assert len(predicted) == 2 * SCENES
    run(small, exact, *synthetic(SCENES + 1), "--reference", exact, "-o", str(tmp_path))
    assert len(predicted) == 2 * SCENES + 2, "one more scene is one more for each model"
    run(small, *synthetic(), "-o", str(tmp_path / "fresh"))
    assert len(predicted) == 3 * SCENES + 2


def test_fast_attention_is_another_way_to_run_a_model(
    run: Any, models: tuple[str, str], tmp_path: Path, predicted: list[str]
) -> None:
    exact = models[0]
    words = (exact, *synthetic(), "-o", str(tmp_path))
    whole = run(*words)
    fast = run(*words, "--attention", "fast")
    assert len(predicted) == 2 * SCENES, "scenes of the one aren't those of the other"
    assert (whole["attention"], fast["attention"]) == ("exact", "fast")
    assert fast["depth_absrel"] != whole["depth_absrel"]
    assert rows(run(*words)) == rows(whole)
    assert rows(run(*words, "--attention", "fast")) == rows(fast)
    assert len(predicted) == 2 * SCENES, "and both are kept"
    both = run(*words, "--reference", exact, "--attention", "fast")
    assert [row["attention"] for row in both["rows"]] == ["exact", "fast"]
    assert both["rows"][0]["drift_depth"] == 0 < both["rows"][1]["drift_depth"]
    assert "exact, fast attention" in (tmp_path / "report.html").read_text()


def test_8_bit_queries_and_keys_are_another_way_too(
    run: Any, models: tuple[str, str], tmp_path: Path, predicted: list[str]
) -> None:
    exact = models[0]
    words = (exact, *synthetic(), "-o", str(tmp_path))
    whole = run(*words)
    both = run(*words, "--reference", exact, "--attention-bits", "8")
    assert len(predicted) == 3 * SCENES, "the reference is the same at 16 bits, but drifts are from it"
    assert [row["attention_bits"] for row in (whole, *both["rows"])] == [16, 16, 8]
    assert both["rows"][0]["drift_depth"] == 0 < both["rows"][1]["drift_depth"] < 0.05
    assert "exact, 8-bit queries and keys" in (tmp_path / "report.html").read_text()
    assert rows(run(*words, "--reference", exact, "--attention-bits", "8")) == rows(both)
    assert len(predicted) == 3 * SCENES


def test_workers_give_the_same_rows(run: Any, models: tuple[str, str], tmp_path: Path) -> None:
    exact, small = models
    words = (small, *synthetic(), "--reference", exact, "--threads", "1")
    here = run(*words, "-o", str(tmp_path / "here"))
    there = run(*words, "-o", str(tmp_path / "there"), "--workers", "1")
    assert rows(there) == rows(here)


def rows(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in ("said", "output", "results", "report")}


def test_a_model_is_not_judged_on_what_it_was_calibrated_on(run: Any, root: str, tmp_path: Path) -> None:
    pictures = sorted(Path(root).glob("*/images"))
    small = str(tmp_path / "learnt")
    moved = tmp_path / "elsewhere" / "under other names"
    shutil.copytree(pictures[0], moved)
    for place, file in enumerate(sorted(moved.iterdir())):
        file.rename(moved / f"photo {place}{file.suffix}")
    qv.save(qv.quantize(sane_model(), "w4a4-static", "rtn", str(moved), progress=False), small)
    words = (small, "--dataset", "colmap", "--root", root)
    said = run(*words, code=2)["said"]
    assert f"calibrated on frames of scene {pictures[0].parent.name} that it would be judged on ({FRAMES})" in said
    allowed = run(*words, "--allow-overlap")
    assert allowed["calibration"]["overlap"] == FRAMES
    assert f"which hold {FRAMES} of the {SCENES * FRAMES} evaluated frames" in allowed["calibration"]["told"]
    other = run(*words, "--scenes", str(SCENES - 1), "--seed", "1")
    assert other["calibration"] == {
        "clips": 1,
        "overlap": 0,
        "told": f"1 calibration clips, none among the {(SCENES - 1) * FRAMES} evaluated frames",
    }
    config = json.loads((Path(small) / CONFIG_NAME).read_text())
    for clip in config["quantization"]["calibration"]["clips"]:
        del clip["fingerprints"]  # as it was written before they were kept
    (Path(small) / CONFIG_NAME).write_text(json.dumps(config))
    unknown = run(*words)
    assert unknown["calibration"]["overlap"] is None
    assert "of 1 it isn't known which files they were" in unknown["calibration"]["told"]


def test_synthetic_scenes_are_told_apart_by_their_seeds(run: Any, tmp_path: Path) -> None:
    for name, first in (("on", HELD_OUT_SEED + 1), ("off", HELD_OUT_SEED + 100)):
        clips = make_clips([first], FRAMES, 70)
        qv.save(qv.quantize(sane_model(), "w4a4-static", "rtn", clips, progress=False), tmp_path / name)
    assert run(str(tmp_path / "off"), *synthetic())["calibration"]["overlap"] == 0
    assert "would be judged on" in run(str(tmp_path / "on"), *synthetic(), code=2)["said"]


def test_changed_pictures_are_measured_again_and_damaged_ones_cost_the_table(
    run: Any, models: tuple[str, str], root: str, tmp_path: Path, predicted: list[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    words = (models[0], "--dataset", "colmap", "--root", str(copy), "-o", str(tmp_path / "out"))
    first = run(*words)
    assert len(predicted) == SCENES
    picture = sorted((copy / "garden" / "images").iterdir())[0]
    good = picture.read_bytes()
    picture.write_bytes(good[:60])
    broken = run(*words, code=1)
    assert [failed["scene"] for failed in broken["failed"]] == ["garden"]
    assert picture.name in broken["failed"][0]["error"]
    assert len(predicted) == SCENES, "the others are kept"
    picture.write_bytes(good)
    assert rows(run(*words)) == rows(first)
    assert len(predicted) == SCENES + 1


def test_models_are_made_from_a_float_one_once(run: Any, models: tuple[str, str], tmp_path: Path) -> None:
    exact, small = models
    words = (exact, *synthetic(2), "--methods", "rtn", "--schemes", "w8a8,w4a4", "-o", str(tmp_path))
    result = run(*words)
    assert [(row["scheme"], row["method"]) for row in result["rows"]] == [
        ("float32", "float"), ("w8a8", "rtn"), ("w4a4", "rtn"),
    ]  # fmt: skip
    assert result["rows"][2]["digest"] == comparison.content_digest(small)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "models").glob("*/*")}
    assert len(made) == 4
    assert run(*words)["rows"] == result["rows"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "models").glob("*/*")} == made


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a MODEL"),
        (["{exact}", "--dataset", "nothing"], "unknown dataset 'nothing'|no protocol"),
        (["{exact}", "--protocol", "nothing"], "unknown protocol 'nothing'"),
        (["{exact}", "--protocol", "dtu-pi3", "--dataset", "co3d"], "is of dataset dtu, not of co3d"),
        (["{exact}", "--dataset", "dtu"], "needs --root"),
        (["{exact}", "--config", "nothing"], "no table nothing"),
        (["{exact}", "--frames", "1"], "--frames 2 or more"),
        (["{exact}", "--scenes", "0"], "--scenes 1 or more"),
        (["{exact}", "--workers", "-2"], "workers is -2"),
        (["{exact}", "--reference", "{small}"], "is quantized; name the float model"),
        (["{small}", "--methods", "rtn", "-o", "x"], "quantizes one float MODEL"),
        (["{exact}", "--methods", "rtn"], "needs --output"),
        (["{exact}", "/nothing"], "no checkpoint at /nothing"),
        (["--study", "--attention", "fast"], "the study is of exact attention"),
        (["--study", "--attention-bits", "8"], "the study is of 16 bits"),
    ],
)
def test_mistakes_are_one_line(run: Any, models: tuple[str, str], words: list[str], said: str) -> None:
    exact, small = models
    told = run(*(word.format(exact=exact, small=small) for word in words), code=2)["said"]
    assert any(part in told for part in said.split("|")), told
    assert "Traceback" not in told


def test_pictures_are_as_the_family_has_them_or_smaller(models: tuple[str, str]) -> None:
    entrant = comparison.Entrant.of(models[0], None, "cpu")
    fitted = comparison.fitted
    assert fitted(comparison.Picture(518), entrant) == comparison.Picture(70)
    assert fitted(comparison.Picture(518, "uniform"), entrant) == comparison.Picture(70, "uniform")
    assert fitted(comparison.Picture(512, "pi3"), entrant) == comparison.Picture(69, "pi3")
    assert fitted(comparison.Picture(518, "crop-resize", 392), entrant) == comparison.Picture(70, "crop-resize", 56)


@pytest.mark.slow
def test_a_node_that_dies_in_the_middle_loses_nothing(run: Any, models: tuple[str, str], tmp_path: Path) -> None:
    exact, small = models
    words = (exact, small, *synthetic(8), "--reference", exact, "--threads", "1")
    here = run(*words, "-o", str(tmp_path / "here"))
    with cluster_of({"num_cpus": 1}, {"num_cpus": 1}) as (started, nodes):

        def kill_after_first() -> None:
            while not list((tmp_path / "there" / "scenes").glob("*/*.json")):
                time.sleep(0.02)
            started.remove_node(nodes[1], allow_graceful=False)

        killer = threading.Thread(target=kill_after_first)
        killer.start()
        there = run(*words, "-o", str(tmp_path / "there"), "--ray", started.address)
        killer.join()
    assert rows(there) == rows(here)
    assert np.isfinite(there["rows"][1]["drift_depth"])
