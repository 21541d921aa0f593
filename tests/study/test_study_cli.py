"""`quantvggt evaluate --study` from the command line."""

import json
from pathlib import Path

import pytest

from quantvggt.cli.main import main
from quantvggt.study.store import STANDARD, Results


def test_a_model_or_the_study_but_not_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate"]) == 2
    assert main(["evaluate", "vggt-nano", "--study"]) == 2
    assert capsys.readouterr().err.count("MODEL") == 2


def test_dry_run_lists_what_is_missing_and_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    words = ["evaluate", "--study", "--results", str(path), "--methods", "rtn", "--forms", "vggt-nano", "--json"]
    assert main([*words, "--dry-run", "--schemes", "w4a4,w3a3"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {"results": str(path), "rows": 0, "missing": 2, "failed": []}
    assert "vggt-nano/w4a4/rtn" in told.err
    assert not path.exists()


def test_tables_only_writes_them_from_the_rows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Results(STANDARD).save(path)
    assert main(["evaluate", "--study", "--results", str(path), "--tables-only", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 0
    assert "<!-- study:main -->" in path.with_suffix(".md").read_text()
