"""The study's tables from rows that are known."""

from pathlib import Path
from typing import Any

from quantvggt.study.plan import Cell, Entry
from quantvggt.study.store import Results, Setup
from quantvggt.study.tables import write_tables

FORM = "vggt-nano"
ERRORS = {"depth_absrel": 0.05, "point_error": 0.06, "point_accuracy": 0.02, "point_completeness": 0.03}
DRIFTS = {"drift_rotation_deg": 0.5, "drift_translation_deg": 0.25, "drift_depth": 0.01}


def row_of(cell: Cell, auc: float, drift: float = 0.5) -> dict[str, Any]:
    aucs = {"auc30": auc, "auc15": auc / 2, "auc5": auc / 4, "auc3": auc / 8}
    other = {"checkpoint_bytes": 25_000_000, "calibration_s": 12.0, "calibration_peak_bytes": 80_000_000}
    more = {"key": cell.key, "model": cell.form, "model_sha256": "0", "calibration": {"broken_chosen": cell.seed}}
    return {**aucs, **ERRORS, **DRIFTS, **other, **more, "drift_rotation_deg": drift}


def example() -> tuple[Results, list[Entry]]:
    float_cell, rtn = Cell(FORM, "float32", "float"), Cell(FORM, "w4a4", "rtn")
    dsfq = [Cell(FORM, "w4a4", "dsfq", seed) for seed in range(3)]
    best = [Cell(FORM, "w4a4", "barq-2", seed) for seed in range(3)]
    never = Cell(FORM, "w8a8", "dsfq")
    rows = [row_of(float_cell, 0.8, 0.0), row_of(rtn, 0.72, 3.0)]
    rows += [row_of(cell, auc, 1.5) for cell, auc in zip(dsfq, (0.78, 0.79, 0.80), strict=True)]
    rows += [row_of(best[0], 0.796, 0.5)]
    plan = [Entry("float", "full precision", float_cell), Entry("main", "RTN", rtn)]
    plan += [Entry("main", "DSFQ", cell) for cell in (*dsfq, never)] + [Entry("main", "best", cell) for cell in best]
    plan += [Entry("sampling", "nfds", cell) for cell in dsfq]
    return Results(Setup(), {row["key"]: row for row in rows}), plan


def lines_of(text: str, label: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.splitlines()
        if line.startswith(f"| {label} |")
    ]


def test_means_deviations_retention_and_gaps(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    write_tables(*example(), path)
    text = path.read_text()
    assert "6 of 9 cells are measured" in text

    overview = ["W8A8", "W6A6", "W4A8", "W4A4", "W3A4", "W3A3"]
    (auc, kept, rotation, depth, full), w4a4 = lines_of(text, "DSFQ"), overview.index("W4A4")
    assert auc == ["", "", "", "79.0 ± 1.0", "", ""]
    assert kept[w4a4] == "98.8"  # 0.79 / 0.80
    assert (rotation[w4a4], depth[w4a4]) == ("1.500 ± 0.000", "**1.00 ± 0.00**")  # the best, and so is everybody
    assert full[:2] == ["79.0 ± 1.0", "39.5 ± 0.5"]
    assert lines_of(text, "RTN")[0][w4a4] == "72.0 ± 0.0"  # one run stands for all: nothing in it is random
    assert lines_of(text, "best")[0][w4a4] == "**79.6 (1 of 3)**"
    assert lines_of(text, "best")[1][w4a4] == "**99.5 (1 of 3)**"
    assert lines_of(text, "nfds")[0][-1] == "1.0 ± 1.0"  # broken clips chosen: 0, 1 and 2
    assert lines_of(text, FORM)[0][:4] == ["80.0", "40.0", "20.0", "10.0"]


def test_what_people_wrote_stays_and_blocks_are_renewed(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    path.write_text("# Ours\n\nBefore.\n\n<!-- study:float -->\nold\n<!-- /study -->\n\nAfter.\n")
    results, plan = example()
    write_tables(results, plan, path)
    once = path.read_text()
    assert once.startswith("# Ours\n\nBefore.\n\n<!-- study:float -->\n| form |")
    assert "<!-- /study -->\n\nAfter.\n" in once
    assert "old" not in once
    assert once.count("<!-- study:main -->") == 1
    write_tables(results, plan, path)
    assert path.read_text() == once
    write_tables(Results(Setup()), plan, path)
    emptied = path.read_text()
    assert "Before." in emptied
    assert "79.0" not in emptied
