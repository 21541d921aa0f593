"""Write what an evaluation found: report.json for programs, report.html for people."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantvggt.core.files import atomic_file
from quantvggt.evaluate.run import Row
from quantvggt.reconstruction.scene import Scene
from quantvggt.report.page import report_page
from quantvggt.report.table import full_precision


def write_report(
    rows: Sequence[Row],
    folder: str | os.PathLike[str],
    *,
    title: str,
    summary: str,
    scenes: Mapping[str, Scene] | None = None,
    highlight: Row | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> tuple[Path, Path]:
    """Write folder/report.html and folder/report.json; returns both paths.

    rows: result rows, exactly one of them of the float model (method "float").
    title, summary: the page's head. scenes: name -> reconstruction of the same images by different models,
    shown side by side. highlight: the row the page opens with. provenance: what was run, JSON-able, shown at
    the end and stored in report.json next to "rows".

    Raises InputError without a float row, or if the folder cannot be written.
    """
    full_precision(rows)
    folder, provenance = Path(folder), dict(provenance or {})
    page = report_page(rows, scenes or {}, highlight, title, summary, provenance)
    html_path, json_path = folder / "report.html", folder / "report.json"
    with atomic_file(html_path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    with atomic_file(json_path) as temporary:
        temporary.write_text(json.dumps({"rows": list(rows), **provenance}, indent=2) + "\n", encoding="utf-8")
    return html_path, json_path
