"""Speed and memory, both sides in one run: see `run.benchmark`."""
