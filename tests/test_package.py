"""An installed quantvggt has every file that it needs at run time."""

import ast
import re
from pathlib import Path

import pytest

import quantvggt

SOURCE = Path(quantvggt.__file__).parent
PROJECT = SOURCE.parent.parent / "pyproject.toml"


@pytest.mark.skipif(not PROJECT.is_file(), reason="needs the source tree, not an installed package")
def test_every_file_beside_the_code_is_package_data() -> None:
    (patterns,) = re.findall(r"\[tool\.setuptools\.package-data\]\nquantvggt = (\[.*?\])", PROJECT.read_text(), re.S)
    shipped = {file for pattern in ast.literal_eval(patterns) for file in SOURCE.glob(pattern)}
    beside = {file for file in SOURCE.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert beside - shipped == set()
    assert SOURCE / "report/templates/report.html" in shipped
    assert SOURCE / "viewer/page.html" in shipped
