"""Datasets with truth by name, one file each."""

import os
import warnings
from pathlib import Path

from quantvggt.core.errors import InputError
from quantvggt.scenes.datasets.co3d import Co3d
from quantvggt.scenes.datasets.colmap import Colmap
from quantvggt.scenes.datasets.contract import Dataset, Picture
from quantvggt.scenes.datasets.draws import Draw, Drawn, Every, First, RandomFrames
from quantvggt.scenes.datasets.dtu import Dtu
from quantvggt.scenes.datasets.eth3d import Eth3d
from quantvggt.scenes.datasets.kitti import Kitti
from quantvggt.scenes.datasets.nrgbd import Nrgbd
from quantvggt.scenes.datasets.re10k import Re10k
from quantvggt.scenes.datasets.scannet import Scannet
from quantvggt.scenes.datasets.seven_scenes import SevenScenes
from quantvggt.scenes.datasets.sintel import Sintel
from quantvggt.scenes.datasets.synthetic import Synthetic
from quantvggt.scenes.datasets.tum import Bonn, Tum

_ALL: tuple[type[Dataset], ...] = (
    *(Synthetic, Co3d, Dtu, SevenScenes, Nrgbd, Re10k, Eth3d, Kitti, Tum, Scannet, Sintel, Bonn, Colmap),
)
DATASETS: dict[str, type[Dataset]] = {kind.name: kind for kind in _ALL}

__all__ = ["DATASETS", "Dataset", "Draw", "Drawn", "Every", "First", "Picture", "RandomFrames", "open_dataset"]


def open_dataset(name: str, root: str | os.PathLike[str] | None = None) -> Dataset:
    """The dataset `name` at `root`. Raises InputError if there is none of that name, or its files aren't there."""
    if name not in DATASETS:
        raise InputError(f"unknown dataset {name!r}; use one of: {', '.join(DATASETS)}")
    dataset = DATASETS[name](None if root is None else Path(root).expanduser())
    if lacking := dataset.missing():
        some = "; ".join(lacking[:3]) + ("; ..." if lacking[3:] else "")
        warnings.warn(
            f"dataset {name} is not complete, so numbers aren't those of published tables: {some} "
            f"(quantvggt datasets --check {name} --root {root} lists all)",
            stacklevel=2,
        )
    return dataset
