"""The report: what is in the files, that nothing needs the network, and that no text becomes markup."""

import json
import re

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from quantvggt.core.errors import InputError
from quantvggt.core.machine import environment
from quantvggt.reconstruction.scene import Scene
from quantvggt.report.table import format_table, human_bytes
from quantvggt.report.write import write_report


def row(method, scheme, size, auc30, drift):
    accuracy = {"auc30": auc30, "auc15": auc30 - 0.1, "auc5": auc30 - 0.2, "auc3": auc30 - 0.3}
    errors = {"depth_absrel": 0.0512, "point_error": 0.031}
    drifts = {"drift_rotation_deg": drift, "drift_translation_deg": drift / 2, "drift_depth": drift / 100}
    identity = {"model": "tiny", "method": method, "scheme": scheme, "seed": 0, "checkpoint_bytes": size}
    return identity | accuracy | errors | drifts


ROWS = [
    row("float", "float32", 38_600_000, 0.853, 0.0),
    row("rtn", "w4a4", 19_300_000, 0.712, 3.21),
    row("dsfq", "w4a4", 19_300_000, 0.8526, 1.04),
]


def scene(rng):
    extrinsics = np.tile(np.eye(3, 4, dtype=np.float32), (2, 1, 1))
    intrinsics = np.tile(np.diag([14, 14, 1]).astype(np.float32), (2, 1, 1))
    depth = rng.uniform(1, 2, (2, 14, 14)).astype(np.float32)
    depth[:, :4] = 0
    return Scene(
        names=["<b>a</b>.png", "b.png"],
        images=rng.integers(0, 255, (2, 14, 14, 3)).astype(np.uint8),
        extrinsics=extrinsics,
        intrinsics=intrinsics,
        depth=depth,
        depth_conf=(depth > 0).astype(np.float32),
        points=rng.normal(size=(2, 14, 14, 3)).astype(np.float32),
        points_conf=(depth > 0).astype(np.float32),
    )


@pytest.fixture
def report(tmp_path):
    rng = np.random.default_rng(0)
    return write_report(
        ROWS,
        tmp_path / "deep" / "report",
        title="</title><script>alert(1)</script>",
        summary="a < b & c",
        scenes={"Full precision": scene(rng), "W4A4 <i>dsfq</i>": scene(rng)},
        highlight=ROWS[2],
        provenance={"scenes": {"held out": "</dd><script>2 scenes"}, "seeds": [0], **environment()},
    )


def test_the_json_holds_the_rows_and_the_provenance(report):
    read = json.loads(report[1].read_text())
    assert read["rows"] == ROWS
    assert {"scenes", "seeds", "versions", "machine"} <= set(read)
    assert read["machine"]["cores"] >= 1


def test_the_page_stands_alone(report):
    page = report[0].read_text()
    assert page.count(get_plotlyjs()[:2000]) == 1
    own = page.replace(get_plotlyjs(), "")
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']?(?!data:)[\w/.]", own)
    assert not re.findall(r"url\(|@import|https?://(?!plot\.ly)", own)
    assert own.count("data:image/png;base64,") == 6  # two input frames, two depth maps of each model


def test_text_in_the_page_is_escaped(report):
    own = report[0].read_text().replace(get_plotlyjs(), "")
    for markup in ("<script>alert", "</dd><script>2", "<i>dsfq</i>", "<b>a</b>", "a < b & c"):
        assert markup not in own
    assert "a &lt; b &amp; c" in own


def test_no_word_of_a_row_or_of_the_provenance_becomes_markup(tmp_path):
    evil = "<script>'\"&"
    rows = [ROWS[0], ROWS[1] | {"method": evil, "scheme": evil}]
    provenance = {evil: {evil: [evil, 0.123456, {"deep": evil}]}}
    page, _ = write_report(rows, tmp_path, title=evil, summary=evil, highlight=rows[1], provenance=provenance)
    own = page.read_text().replace(get_plotlyjs(), "")
    plain, _ = write_report(ROWS[:2], tmp_path, title="t", summary="s", highlight=ROWS[1])
    assert own.count("<script") == plain.read_text().replace(get_plotlyjs(), "").count("<script")
    text = "&lt;script&gt;&#39;&#34;&amp;"
    assert f"<dt>{text}</dt><dd>{text}: {text}, 0.1235, deep: {text}</dd>" in own


def test_the_page_shows_each_number_and_its_difference_from_full_precision(report):
    own = report[0].read_text().replace(get_plotlyjs(), "")
    table = own[own.index("<tbody>") : own.index("</tbody>")]
    assert "71.2<small>-14.1</small>" in table
    assert "19.3 MB<small>2.00x smaller</small>" in table
    assert "1.04°" in table
    assert table.count("<tr") == 3


def test_a_report_without_scenes_or_highlight_is_written(tmp_path):
    html, _ = write_report(ROWS, tmp_path, title="t", summary="s")
    assert "One scene in 3D" not in html.read_text()


def test_a_drift_that_was_not_measured_is_shown_as_a_dash(tmp_path):
    rows = [*ROWS, ROWS[1] | {key: None for key in ROWS[1] if key.startswith("drift")}]
    html, _ = write_report(rows, tmp_path, title="t", summary="s", highlight=rows[3])
    own = html.read_text().replace(get_plotlyjs(), "")
    last = own[: own.index("</tbody>")].rpartition("<tr")[2]
    assert last.count("<td>-</td>") == 3
    assert format_table(rows).splitlines()[-1].split()[-3:] == ["-", "-", "-"]


@pytest.mark.parametrize("rows", [ROWS[1:], [ROWS[0], *ROWS]])
def test_a_report_needs_one_float_row(rows, tmp_path):
    with pytest.raises(InputError, match="exactly one row of the float model"):
        write_report(rows, tmp_path, title="t", summary="s")
    assert not list(tmp_path.iterdir())


def test_a_report_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_report(ROWS, tmp_path / "file" / "folder", title="t", summary="s")


def test_the_text_table_is_aligned_and_plain():
    lines = format_table(ROWS).splitlines()
    assert len(lines) == 2 + len(ROWS)  # however wide: nothing wraps
    starts = [match.start() for match in re.finditer(r"-+", lines[1])]
    assert all(line[start - 1] == " " and line[start] != " " for line in lines for start in starts[1:])
    assert "71.2 -14.1" in lines[3]
    assert "85.3 +0.0" in lines[4]  # -0.04 points round to no change, without a minus sign
    assert "2.00x" in lines[4]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (38_630_912, "38.6 MB"), (5.03e9, "5.0 GB")],
)
def test_bytes_are_read_in_decimal_units(count, text):
    assert human_bytes(count) == text
