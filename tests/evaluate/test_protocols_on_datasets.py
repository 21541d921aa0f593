"""Every protocol on a miniature of its dataset: who predicts the truth gets the best that there is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataset_minis import MINIS, write_mini
from quantvggt.evaluate.prediction import Prediction
from quantvggt.evaluate.protocols.published import PROTOCOLS
from quantvggt.reconstruction.geometry import unproject
from quantvggt.scenes.clip import GroundTruth
from quantvggt.scenes.datasets import Every, First, open_dataset

BEST = {"auc": 1, "nc": 1, "delta1": 1, "fscore": 1, "precision": 1, "recall": 1}
"""Of numbers whose names hold this; 0 of all others, which are errors."""
pytestmark = pytest.mark.filterwarnings("ignore:dataset .* is not complete")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("minis")
    return {name: write_mini(name, folder, scenes=1, frames=4) for name in MINIS}


def told(truth: GroundTruth) -> Prediction:
    """The truth in the first camera's world. Frames without depth have no points."""
    square = np.tile(np.eye(4), (len(truth.extrinsics), 1, 1))
    square[:, :3] = np.nan_to_num(truth.extrinsics.double().numpy())
    if truth.extrinsics.isnan().all():
        square[:] = np.eye(4)
    cameras = (square @ np.linalg.inv(square[0]))[:, :3].astype(np.float32)
    lenses, depth = truth.intrinsics.numpy(), truth.depth.numpy()
    return Prediction(cameras, lenses, depth, unproject(depth, cameras, lenses))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_truth_is_the_best_prediction(name: str, roots: dict[str, Path]) -> None:
    protocol = PROTOCOLS[name]
    dataset = open_dataset(protocol.dataset, roots.get(protocol.dataset))
    draw = First(4) if protocol.dataset == "synthetic" else Every(1)
    (drawn,) = draw.of(dataset, 1)
    clip = dataset.clip(*drawn, replace(protocol.picture, size=56, height=None))
    assert len(clip.names) == 4
    numbers = protocol.measure(told(clip.truth), clip)
    row = protocol.summarise({drawn.scene: numbers}, {drawn.scene: dataset.category(drawn.scene)})
    assert row
    assert set(numbers["absent"]) <= ({"points", "depth"} if protocol.dataset == "colmap" else set())
    unit = 1 if dataset.name == "synthetic" else MINIS[dataset.name].unit
    for key, value in row.items():
        wanted = next((best for part, best in BEST.items() if part in key), 0)
        assert value == pytest.approx(wanted, abs=1e-3 * (unit if key.startswith(("acc", "comp")) else 1)), key
