"""What a protocol is: everything that a table's numbers depend on besides the model, as one value with a name."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from quantvggt.core.errors import InputError
from quantvggt.evaluate.metrics.pose import AUC_THRESHOLDS, Relpose, auc, pose_errors
from quantvggt.evaluate.prediction import Prediction
from quantvggt.evaluate.protocols.truth import lack_of_poses
from quantvggt.scenes.clip import Clip, GroundTruth
from quantvggt.scenes.datasets.contract import Picture
from quantvggt.scenes.datasets.draws import Draw

Values = dict[str, float]
SceneNumbers = dict[str, Any]
"""What `Protocol.measure` says about one scene."""


class Part(ABC):
    """One kind of number: of points, of depth, of a trajectory."""

    @abstractmethod
    def lacks(self, prediction: Prediction, truth: GroundTruth) -> str | None:
        """Why the truth doesn't allow these numbers of what was predicted; None if it does."""

    @abstractmethod
    def measure(self, prediction: Prediction, truth: GroundTruth) -> Values:
        """The numbers of one scene, all finite."""

    def summarise(self, scenes: Sequence[Values]) -> Values:
        """The numbers of a table from those of its scenes: their means."""
        return {key: float(np.mean([scene[key] for scene in scenes])) for key in scenes[0]}


@dataclass(frozen=True)
class Protocol:
    """How one benchmark measures, as published or as ours.

    dataset, split, draw: which scenes and frames; picture: how they are prepared for VGGT (a model of another input
    size takes its own). relpose: the form of the relative pose (`metrics.pose`), None where cameras aren't measured;
    pooling: the AUC is over all frame pairs together, or the mean over categories, or over scenes.
    points, depth, trajectory: the other numbers, None where the benchmark has none.
    about: where it is published, in what published scripts differ from it and from each other.
    """

    name: str
    dataset: str
    draw: Draw
    picture: Picture
    about: str
    split: str = "test"
    relpose: Relpose | None = None
    pooling: Literal["pairs", "category", "scene"] = "pairs"
    points: Part | None = None
    depth: Part | None = None
    trajectory: Part | None = None

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that the benchmark has, by field."""
        found = {"points": self.points, "depth": self.depth, "trajectory": self.trajectory}
        return {name: part for name, part in found.items() if part is not None}

    def measure(self, prediction: Prediction, clip: Clip) -> SceneNumbers:
        """One scene's numbers, JSON-able and all finite: everything that `summarise` needs.

        rotation_deg, direction_deg: errors of all frame pairs (`pose_errors`); points, depth, trajectory: values by
        name; absent: for each of pose, points, depth and trajectory that the protocol has and this scene doesn't,
        why. A prediction that isn't finite counts as the worst (docs/metrics.md).

        Raises InputError if the clip has no truth.
        """
        if clip.truth is None:
            raise InputError(f"clip of {clip.names[0]} has no ground truth to score against; use clips that have it")
        numbers: SceneNumbers = {}
        absent: dict[str, str] = {}
        unknown = "one frame makes no pair" if len(clip.names) < 2 else lack_of_poses(clip.truth)
        if self.relpose is not None and unknown:
            absent["pose"] = unknown
        elif self.relpose is not None:
            rotation, direction = pose_errors(prediction.extrinsics, clip.truth.extrinsics, self.relpose)
            numbers |= {"rotation_deg": rotation.tolist(), "direction_deg": direction.tolist()}
        for name, part in self.parts.items():
            reason = part.lacks(prediction, clip.truth)
            if reason is None:
                numbers[name] = part.measure(prediction, clip.truth)
            else:
                absent[name] = reason
        return {**numbers, "absent": absent}

    def summarise(
        self,
        scenes: Mapping[str, SceneNumbers],
        categories: Mapping[str, str] | None = None,
        names: Sequence[str] | None = None,
    ) -> Values:
        """A table's row from `measure` of its scenes: auc30 .. auc3 (fractions of 1), and the parts' values.

        categories: of each scene by name, for `pooling` by category; scenes without one are pooled together.
        names: of the scenes to take, one as often as it is named (a resample, see `statistics`); None: all, once.
        What no scene has is left out. A scene that lacks a part doesn't count in that part.
        """
        names = list(scenes) if names is None else names
        groups: dict[str, list[SceneNumbers]] = {}
        for place, name in enumerate(names):
            group = {"pairs": "", "category": (categories or {}).get(name, ""), "scene": str(place)}[self.pooling]
            if "rotation_deg" in scenes[name]:
                groups.setdefault(group, []).append(scenes[name])
        row = _mean_auc(list(groups.values())) if groups else {}
        for kind, part in self.parts.items():
            found = [scenes[name][kind] for name in names if kind in scenes[name]]
            row |= part.summarise(found) if found else {}
        return row


def _mean_auc(groups: Sequence[Sequence[SceneNumbers]]) -> Values:
    """Mean over groups of the AUC over all pairs of each."""
    errors = [
        [np.concatenate([scene[kind] for scene in group]) for kind in ("rotation_deg", "direction_deg")]
        for group in groups
    ]
    return {
        f"auc{threshold}": float(np.mean([auc(rotation, direction, threshold) for rotation, direction in errors]))
        for threshold in AUC_THRESHOLDS
    }
