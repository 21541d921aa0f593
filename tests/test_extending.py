"""Every recipe in docs/extending.md runs as it stands, in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
RECIPES = dict(re.findall(r"^## ([^\n]*)\n(?:(?!^## ).)*?^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S))


def test_every_kind_that_has_code_here_is_found() -> None:
    assert {"A method", "A dataset", "An export format", "A kernel backend"} <= set(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipe_runs(recipe: str) -> None:
    run = subprocess.run([sys.executable, "-c", RECIPES[recipe]], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
