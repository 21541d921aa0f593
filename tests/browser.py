"""A real Chromium without a window, for tests of pages; skips where there is none."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--no-sandbox",  # root has none, and the pages are our own
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),  # WebGL without a GPU
)


@contextmanager
def chromium() -> Iterator[Any]:
    """A playwright Browser; skips the test without playwright, or without a browser on PATH."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright")
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser on PATH: {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=list(OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


def pixels(shown: Any) -> np.ndarray:
    """A screenshot of a page or an element, RGB [H, W, 3]."""
    with Image.open(io.BytesIO(shown.screenshot())) as image:
        return np.asarray(image.convert("RGB"))
