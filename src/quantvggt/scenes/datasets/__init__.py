"""Datasets with truth by name, one file each."""

import os
from pathlib import Path

from quantvggt.core.errors import InputError
from quantvggt.scenes.datasets.contract import Dataset
from quantvggt.scenes.datasets.synthetic import Synthetic

DATASETS: dict[str, type[Dataset]] = {Synthetic.name: Synthetic}

__all__ = ["DATASETS", "Dataset", "open_dataset"]


def open_dataset(name: str, root: str | os.PathLike[str] | None = None) -> Dataset:
    """The dataset `name` at `root`. Raises InputError if there is none of that name, or its files aren't there."""
    if name not in DATASETS:
        raise InputError(f"unknown dataset {name!r}; use one of: {', '.join(DATASETS)}")
    return DATASETS[name](None if root is None else Path(root).expanduser())
