"""The study's plan: every cell has one name for good, and nothing is measured twice."""

from quantvggt.core.scheme import Scheme
from quantvggt.study.plan import PARTS, Calibration, Cell, cells, study


def test_a_key_stands_for_one_cell_and_a_cell_for_one_key() -> None:
    everything = [entry.cell for entry in study()]
    assert len({cell.key for cell in everything}) == len(set(everything))


def test_keys_do_not_change() -> None:
    """Rows are found by them in files that exist already."""
    assert Cell("vggt-nano", "float32", "float").key == "vggt-nano/float"
    assert Cell("vggt-nano", "w4a4", "rtn").key == "vggt-nano/w4a4/rtn"
    assert Cell("vggt-nano", "w3a3", "dsfq", 2).key == "vggt-nano/w3a3/dsfq/fresh-20/seed-2"
    chosen = Calibration(20, "nfds", 100, 0.2, (("clusters", 4),))
    cell = Cell("vggt-nano-heavy", "w4a4-static", "dsfq", 1, (("alpha", 0.3),), chosen)
    assert cell.key == "vggt-nano-heavy/w4a4-static/dsfq,alpha=0.3/nfds-20-of-100-broken-0.2-clusters=4/seed-1"


def test_parts_share_the_cells_that_are_the_same() -> None:
    plan = study()
    parts: dict[str, set[str]] = {}
    for entry in plan:
        parts.setdefault(entry.cell.key, set()).add(entry.part)
    assert parts[Cell("vggt-nano", "w4a4", "dsfq", 0).key] == {"main", "components", "granularity"}
    assert parts[Cell("vggt-nano", "w4a4", "barq-2", 0).key] == {"main", "best"}
    assert parts[Cell("vggt-nano", "w3a3", "dsfq", 0).key] == {"main", "components", "size", "alpha"}
    assert len(cells(plan)) < len(plan)
    assert {entry.part for entry in plan} == set(PARTS)


def test_a_method_without_randomness_runs_once_and_others_with_three_seeds_or_more() -> None:
    runs: dict[tuple[str, str, str, str], set[str]] = {}
    for entry in study():
        cell = entry.cell
        Scheme.parse("w4a4" if cell.method == "float" else cell.scheme)
        runs.setdefault((entry.part, cell.form, cell.scheme, entry.label), set()).add(cell.key)
    for (_, _, _, label), keys in runs.items():
        assert len(keys) == 1 if label in ("full precision", "RTN", "Base") else len(keys) >= 3


def test_the_hard_schemes_come_first_and_trained_methods_start_at_w4a4() -> None:
    order = list(cells([entry for entry in study() if entry.part == "main"]).values())
    schemes = list(dict.fromkeys(cell.scheme for cell in order))
    assert schemes[:2] == ["w4a4", "w3a3"]
    assert set(schemes) == {"w8a8", "w6a6", "w4a8", "w4a4", "w3a4", "w3a3"}
    assert next(cell.scheme for cell in order if cell.method == "brecq") == "w4a4"
