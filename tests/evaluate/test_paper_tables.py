"""Every table of the paper, end to end: on a miniature of its dataset by vggt-nano, beside the paper's numbers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import quantvggt as qv
from dataset_minis import write_mini
from quantvggt.calibrate.methods import make_method
from quantvggt.cli.main import main
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.evaluate.config import read_table, table_names
from quantvggt.evaluate.protocols.published import PROTOCOLS
from quantvggt.report.comparison import OF_BENCHMARKS
from quantvggt.report.table import COLUMNS

FRAMES = {"co3d": 50, "dtu": 6}
"""Sequences of CO3D that count are as long."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The datasets, a quantized model, and what was measured: tables of one protocol share their scenes."""
    folder = tmp_path_factory.mktemp("tables")
    qv.save(qv.quantize(qv.load("vggt-nano"), "w4a4", "rtn", progress=False), folder / "w4a4")
    return folder


def root_of(dataset: str, folder: Path) -> str:
    root = folder / dataset
    return str(root if root.is_dir() else write_mini(dataset, folder, 2, FRAMES.get(dataset, 4)))


@pytest.mark.parametrize("name", table_names())
def test_every_table_runs(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = read_table(name)
    protocol = PROTOCOLS[table.protocol]
    root = root_of(protocol.dataset, folder)
    words = ["vggt-nano", str(folder / "w4a4"), "--reference", "vggt-nano", "--config", name, "--root", root]
    assert main(["evaluate", *words, "--output", str(folder / "out"), "--json"]) == 0
    captured = capsys.readouterr()
    result: dict[str, Any] = json.loads(captured.out)
    full, small = result["rows"]
    assert (full["method"], small["method"], small["scheme"]) == ("float", "rtn", "w4a4")
    assert {row["protocol"] for row in result["rows"]} == {table.protocol}
    assert {row["relpose"] for row in result["rows"]} == {protocol.relpose}
    assert full["scenes"] == 2
    assert result["missing"], "a miniature isn't the whole dataset"
    for row in table.rows:
        for key, value in row.published.items():
            assert isinstance(full[key], float)
            assert isinstance(small[key], float)
            assert key in {column.key for column in (*COLUMNS, *OF_BENCHMARKS)}
            assert value > 0
    assert [quoted["label"] for quoted in result["published"]] == [row.label for row in table.rows]
    assert f"{table.rows[0].label}, published" in captured.err
    page = (folder / "out" / "report.html").read_text()
    assert table.title in page
    assert page.count('<tr class="quoted">') == len(table.rows)


def test_tables_are_those_that_were_published() -> None:
    """Numbers of the paper, read by hand."""
    co3d = {(row.label, row.scheme): dict(row.published) for row in read_table("co3d").rows}
    assert len(co3d) == 27
    assert co3d["QuantVGGT", "w4a4"] == pytest.approx({"auc30": 0.869, "auc15": 0.787, "auc5": 0.573, "auc3": 0.436})
    assert co3d["RTN", "w8a8"] == pytest.approx({"auc30": 0.881, "auc15": 0.807, "auc5": 0.603, "auc3": 0.467})
    assert co3d["SmoothQuant", "w6a6"]["auc5"] == pytest.approx(0.614)
    assert co3d["AWQ", "w4a4"]["auc3"] == pytest.approx(0.265)
    (full, *_), (_, twenty) = read_table("dtu").rows, read_table("co3d-20").rows
    assert full.published == {"acc_mean": 1.185, "comp_mean": 2.232, "nc_mean": 0.694}
    assert twenty.published["auc30"] == pytest.approx(0.882)


@pytest.mark.parametrize("name", table_names())
def test_rows_can_be_made(name: str) -> None:
    for row in read_table(name).rows:
        if row.method is not None:
            make_method(row.method, dict(row.settings), 0)
            Scheme.parse(row.scheme)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = ", "is no TOML file"),
        ("title = 'a'\nsource = 'b'\nprotocol = 'c'\nnumbers = 'd'", "is no table of a paper"),
        ("title = 'a'\nsource = 'b'", "is no table of a paper"),
        ("title = 1\nsource = 'b'\nprotocol = 'c'", "is no table of a paper"),
        ("title = 'a'\nsource = 'b'\nprotocol = 'c'\n[[row]]\nlabel = 'a'\nscheme = 'x'\nmethod = 'rtn'", "scheme"),
    ],
)
def test_a_file_that_is_no_table_is_refused(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=said):
        read_table(str(file))
    with pytest.raises(InputError, match="no table nothing"):
        read_table("nothing")


def test_the_report_opens_in_a_browser(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on PATH to open the page with")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    words = ["vggt-nano", str(folder / "w4a4"), "--reference", "vggt-nano", "--config", "nrgbd"]
    root = root_of("nrgbd", folder)
    assert main(["evaluate", *words, "--root", root, "--output", str(folder / "out")]) == 0
    capsys.readouterr()
    errors: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else errors.append(asked.url))
        page.goto((folder / "out" / "report.html").as_uri())
        assert page.locator("h1").inner_text() == "Point maps on NRGBD"
        page.locator(".js-plotly-plot .main-svg").first.wait_for()
        assert page.locator("tbody tr").count() == 2 + 3
        assert page.locator(".errorbars").count() + page.locator(".errorbar").count() > 0
        browser.close()
    assert errors == []
