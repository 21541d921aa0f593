"""The study's runner: what is done stays done, whatever happens in between."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

import quantvggt as qv
from quantvggt.core.errors import InputError
from quantvggt.core.machine import environment, source_commit
from quantvggt.jobs.contract import attempt
from quantvggt.scenes.calibration import CALIBRATION_SEED
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clips
from quantvggt.study.inputs import Inputs
from quantvggt.study.measure import measuring
from quantvggt.study.plan import Calibration, Cell, Entry
from quantvggt.study.run import Filters, run_study
from quantvggt.study.store import Results, Setup
from tiny import sane_model

SETUP = Setup(scenes=2, frames=3, dense_frames=1)
TWO = Calibration(2)
MEASURED = ("calibration_s", "calibration_peak_bytes", "evaluation_s")


@pytest.fixture(scope="module")
def form(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("form") / "tiny"
    qv.save(sane_model(), folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def plan_of(form: str) -> list[Entry]:
    cells = [
        Cell(form, "float32", "float"),
        Cell(form, "w4a4", "rtn"),
        Cell(form, "w3a3", "dsfq", 0, calibration=TWO),
        Cell(form, "w3a3", "dsfq", 1, calibration=TWO),
    ]
    return [Entry("main" if cell.method != "float" else "float", cell.method, cell) for cell in cells]


def run(path: Path, plan: list[Entry], folder: Path, workers: int = 0, **more: Any) -> dict[str, Any]:
    return run_study(path, workers=workers, setup=SETUP, plan=plan, folder=folder, **more)


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in json.loads(path.read_text())["rows"]}


def without_times(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {key: {name: row[name] for name in row if name not in MEASURED} for key, row in rows.items()}


def test_an_interrupted_study_goes_on_and_ends_as_if_nothing_had_happened(
    form: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(form)
    whole, parted = tmp_path / "whole.json", tmp_path / "parted.json"
    assert run(whole, plan, folder, workers=1) == {"results": str(whole), "rows": 4, "missing": 0, "failed": []}

    save = Results.save

    def save_and_interrupt(self: Results, path: Path) -> None:
        save(self, path)
        if len(self.rows) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Results, "save", save_and_interrupt)
        assert run(parted, plan, folder)["missing"] == 2
        patch.setattr(Results, "save", save)
        before = rows_of(parted)
        assert list(before) == [entry.cell.key for entry in plan[:2]]
        assert run(parted, plan, folder)["missing"] == 0

    assert without_times(rows_of(parted)) == without_times(rows_of(whole))
    assert {key: rows_of(parted)[key] for key in before} == before, "what was done was measured again"
    seeds = [rows_of(whole)[entry.cell.key] for entry in plan[2:]]
    assert seeds[0]["drift_rotation_deg"] != seeds[1]["drift_rotation_deg"]
    assert all(row["calibration_s"] > 0 and row["checkpoint_bytes"] > 0 for row in seeds)

    text = whole.with_suffix(".md").read_text()
    assert "4 of 4 cells are measured" in text
    assert "4 rows: " in text


def test_rows_carry_what_they_were_measured_with_and_keep_it(
    form: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, path = plan_of(form), tmp_path / "results.json"
    old = {"versions": {"quantvggt": "0.0.1", "torch": "2.0"}, "machine": {"processor": "Z80"}}
    ours = {**environment(), "commit": source_commit()}
    assert ours["machine"]["processor"] != "Z80"

    run(path, plan[:1], folder)
    whole = json.loads(path.read_text())
    assert {name: whole["rows"][0].pop(name) for name in ours} == ours
    path.write_text(json.dumps({**whole, **old}))  # a file of before rows had their own
    theirs = {**environment(), "commit": "c0ffee" * 6 + "abcd+changes"}
    monkeypatch.setattr("quantvggt.study.measure.source_commit", lambda: theirs["commit"])
    run(path, plan[:2], folder)
    monkeypatch.undo()
    run(path, plan[:3], folder)

    stored = json.loads(path.read_text())
    assert {name: stored[name] for name in old} == old
    first, second, third = stored["rows"]
    assert first == whole["rows"][0]
    assert {name: second[name] for name in theirs} == theirs
    assert {name: third[name] for name in ours} == ours
    text = path.with_suffix(".md").read_text()
    assert "1 rows: Z80, quantvggt 0.0.1 (commit not recorded), PyTorch 2.0." in text
    assert f"quantvggt {ours['versions']['quantvggt']} (commit c0ffeec0ffee+changes), PyTorch" in text


def test_a_cell_that_fails_costs_itself_only_and_is_tried_again(form: str, folder: Path, tmp_path: Path) -> None:
    broken = Entry("main", "dsfq", Cell(form, "w4a4", "dsfq", calibration=Calibration(0)))
    plan = [broken, *plan_of(form)[:2]]
    path = tmp_path / "results.json"
    for _ in range(2):
        result = run(path, plan, folder)
        assert (result["rows"], result["missing"]) == (2, 1)
        assert [failure["key"] for failure in result["failed"]] == [broken.cell.key]


def test_what_is_not_there_yet_is_left_out(
    form: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    future = [
        Cell(form, "w4a4", "clairvoyant"),
        Cell(form, "w4a4", "dsfq", settings=(("crystal", 1),)),
        Cell(str(tmp_path / "nowhere"), "w4a4", "rtn"),
    ]
    plan = [*plan_of(form)[:1], *(Entry("main", "x", cell) for cell in future)]
    assert run(tmp_path / "results.json", plan, folder) == {
        "results": str(tmp_path / "results.json"), "rows": 1, "missing": 3, "failed": [],
    }  # fmt: skip
    told = capsys.readouterr().err
    assert all(word in told for word in ("clairvoyant", "crystal", "nowhere"))


def test_filters_dry_run_and_redo(form: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, path = plan_of(form), tmp_path / "results.json"
    only = Filters(methods=["rtn"])
    assert run(path, plan, folder, dry_run=True, filters=only)["missing"] == 1
    assert not path.exists()
    assert plan[1].cell.key in capsys.readouterr().err
    assert run(path, plan, folder, filters=only)["rows"] == 1
    first = rows_of(path)
    stored = json.loads(path.read_text())
    stored["rows"][0]["auc30"] = -1
    path.write_text(json.dumps(stored))
    assert run(path, plan, folder, filters=only)["rows"] == 1
    assert rows_of(path)[plan[1].cell.key]["auc30"] == -1
    run(path, plan, folder, filters=only, redo=True)
    assert without_times(rows_of(path)) == without_times(first)
    with pytest.raises(InputError, match="workers is -1"):
        run(path, plan, folder, workers=-1)
    with pytest.raises(InputError, match="filters"):
        run(path, plan, folder, filters=Filters(methods=["nothing"]))


def test_rows_of_a_form_that_was_trained_anew_are_measured_again(form: str, folder: Path, tmp_path: Path) -> None:
    path, own = tmp_path / "results.json", tmp_path / "own"
    qv.save(sane_model(), own)
    plan = plan_of(str(own))[:1]
    run(path, plan, folder)
    before = rows_of(path)
    changed = sane_model()
    changed.camera_head.pose_branch.fc2.bias.data[0] += 0.5
    qv.save(changed, own, overwrite=True)
    run(path, plan, folder)
    key = plan[0].cell.key
    assert rows_of(path)[key]["model_sha256"] != before[key]["model_sha256"]
    assert rows_of(path)[key]["auc30"] is not None


def test_results_of_another_setup_or_another_kind_are_refused(form: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Results(Setup(scenes=7)).save(path)
    with pytest.raises(InputError, match="scenes=7"):
        run(path, plan_of(form), folder)
    path.write_text('{"rows": 3}')
    with pytest.raises(InputError, match="no results file"):
        run(path, plan_of(form), folder)


def test_what_is_kept_is_of_the_code_that_made_it(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def render(seeds: Iterable[int], frames: int, size: int) -> list[Clip]:
        made.append(1)
        return make_clips(seeds, frames, size)

    monkeypatch.setattr("quantvggt.study.inputs.make_clips", render)
    for _ in range(2):
        Inputs(SETUP, tmp_path).held_out(28)
    assert len(made) == 1
    monkeypatch.setattr("quantvggt.jobs.store.code_digest", lambda *rooms: "another" * ("scenes" in rooms))
    Inputs(SETUP, tmp_path).held_out(28)
    assert len(made) == 2
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}


def test_kept_scenes_are_those_of_their_seeds(form: str, folder: Path) -> None:
    for _ in range(2):  # rendered, then read back
        inputs = Inputs(SETUP, folder)
        for ours, theirs in (
            (inputs.held_out(70), make_clips([HELD_OUT_SEED, HELD_OUT_SEED + 1], 3, 70)),
            (inputs.calibration(form, TWO, 3), make_clips([CALIBRATION_SEED + 3000, CALIBRATION_SEED + 3001], 3, 70)),
        ):
            for one, other in zip(ours, theirs, strict=True):
                assert (one.names, one.source) == (other.names, other.source)
                assert torch.equal(one.images, other.images)
                assert one.truth is not None
                assert other.truth is not None
                for name in ("extrinsics", "intrinsics", "depth"):
                    assert torch.equal(getattr(one.truth, name), getattr(other.truth, name))


def test_clips_are_chosen_from_a_pool_by_seed(form: str, folder: Path, tmp_path: Path) -> None:
    spec = Calibration(3, "random", pool=8, broken=0.5)

    def chosen(seed: int, folder: Path = folder) -> list[dict[str, Any]]:
        return [clip.source for clip in Inputs(SETUP, folder).calibration(form, spec, seed)]

    assert chosen(0) == chosen(0) == chosen(0, tmp_path)
    assert chosen(0) != chosen(1)
    cell = Cell(form, "w4a4", "dsfq", 1, (("seed", 0),), spec)
    _, row, error = attempt(measuring(SETUP, folder), cell.key, cell)
    assert row is not None, error
    assert row["calibration"]["broken_chosen"] == sum("broken" in source for source in chosen(1))
    assert (row["calibration"]["strategy"], row["settings"]) == ("random", {"seed": 0})
