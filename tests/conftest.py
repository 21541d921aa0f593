"""One thread per test run: the models are tiny, and on a busy machine two threads mostly wait for each other.

And nothing is measured, in processes that tests start neither: which backend runs never depends on what was quick.
"""

import os

import pytest
import torch

import kernel_paths


def pytest_configure() -> None:
    torch.set_num_threads(1)
    os.environ["QUANTVGGT_MEASURE"] = "0"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in kernel_paths.summary():
        terminalreporter.write_line(line)
