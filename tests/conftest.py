"""One thread per test run: the models are tiny, and on a busy machine two threads mostly wait for each other."""

import torch


def pytest_configure() -> None:
    torch.set_num_threads(1)
