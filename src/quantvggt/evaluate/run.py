"""Run a model over clips with known truth and put what came out into one result row."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from quantvggt.core.errors import InputError
from quantvggt.evaluate.metrics.drift import Drift, drift
from quantvggt.evaluate.metrics.pose import AUC_THRESHOLDS
from quantvggt.evaluate.prediction import Prediction
from quantvggt.evaluate.protocols.contract import Protocol
from quantvggt.evaluate.protocols.published import PROTOCOLS
from quantvggt.models import Model
from quantvggt.reconstruction.geometry import unproject
from quantvggt.scenes.clip import Clip

Row = dict[str, Any]

ALWAYS = (
    *(f"auc{threshold}" for threshold in AUC_THRESHOLDS),
    "depth_absrel",
    "point_error",
    "point_accuracy",
    "point_completeness",
)
"""The numbers that every row has, None where they weren't measured."""


def predict(
    model: Model,
    clips: Sequence[Clip],
    progress: bool = True,
    label: str = "predict",
    workers: int = 1,
    dense_frames: int | None = None,
) -> list[Prediction]:
    """Run `model` on each clip, on the device and in the dtype its parameters have.

    A progress bar goes to stderr. workers: clips run at once, sharing torch's threads among them. For a small
    model on a CPU this beats many threads on one clip, by far where the cores are busy: layers of a millisecond
    are soon waiting for each other's threads.
    dense_frames: depth and points of each clip's first so many frames only, cameras of all. The dense heads work
    frame by frame, so these frames answer as they would among all, and on a small model most of the time is saved.
    Raises InputError if the model has no camera or no depth head.
    """
    require_heads(model)
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(
            workers, initializer=torch.set_num_threads, initargs=(max(1, threads // workers),)
        ) as pool:
            done = pool.map(partial(_predict, model, dense_frames), clips)
            return list(tqdm(done, total=len(clips), desc=label, unit="clip", disable=not progress))
    finally:
        torch.set_num_threads(threads)


def require_heads(model: Model) -> None:
    """Raises InputError if the model has no camera or no depth head."""
    missing = {"camera", "depth"} - set(model.heads)
    if missing:
        raise InputError(f"evaluation needs the camera and the depth head; this model has no {sorted(missing)[0]} head")


def score(
    predictions: Sequence[Prediction],
    clips: Sequence[Clip],
    reference: Sequence[Prediction] | None,
    *,
    name: str,
    method: str,
    scheme: str,
    seed: int,
    checkpoint_bytes: int,
    protocol: Protocol = PROTOCOLS["synthetic"],
) -> Row:
    """One result row from predictions already made; the keys are those of docs/cli.md.

    The numbers are those of `protocol`; what it or the truth doesn't have is None. The drifts compare with `reference`,
    the float model's predictions on the same clips and frames. Without a reference they are None, or 0 for the float
    model itself (method "float").

    Raises InputError if a clip has no ground truth.
    """
    if not clips or len(predictions) != len(clips):
        raise InputError(f"scoring needs one prediction per clip, got {len(predictions)} for {len(clips)} clips")
    scenes = {
        str(place): protocol.measure(prediction, clip)
        for place, (prediction, clip) in enumerate(zip(predictions, clips, strict=True))
    }
    if reference is not None:
        drifts = _drift(predictions, reference)._asdict()
    else:
        drifts = dict.fromkeys(Drift._fields, 0.0 if method == "float" else None)
    return {
        "model": name,
        "method": method,
        "scheme": scheme,
        "seed": seed,
        "checkpoint_bytes": checkpoint_bytes,
        "protocol": protocol.name,
        "relpose": protocol.relpose,
        **dict.fromkeys(ALWAYS),
        **protocol.summarise(scenes),
        **{f"drift_{kind}": value for kind, value in drifts.items()},
    }


def evaluate(
    model: Model,
    clips: Sequence[Clip],
    reference: Sequence[Prediction] | None = None,
    *,
    name: str,
    method: str,
    scheme: str,
    seed: int,
    checkpoint_bytes: int,
    progress: bool = True,
    workers: int = 1,
) -> Row:
    """`predict`, then `score`: one result row for `model` on `clips`."""
    predictions = predict(model, clips, progress, label=f"{scheme} {method}", workers=workers)
    return score(
        predictions,
        clips,
        reference,
        name=name,
        method=method,
        scheme=scheme,
        seed=seed,
        checkpoint_bytes=checkpoint_bytes,
    )


@torch.inference_mode()
def _predict(model: Model, dense_frames: int | None, clip: Clip) -> Prediction:
    shown = None if dense_frames is None else range(min(dense_frames, len(clip.images)))
    found = model.answers(clip.images[None].to(model.device), shown)
    wanted = found.extrinsics, found.intrinsics, found.depth
    extrinsics, intrinsics, depth = (x[0].cpu().numpy() for x in wanted if x is not None)
    if found.points is not None:
        points = found.points[0].cpu().numpy()
    else:
        points = unproject(depth, extrinsics[: len(depth)], intrinsics[: len(depth)])
    return Prediction(extrinsics, intrinsics, depth, points)


def _drift(predictions: Sequence[Prediction], reference: Sequence[Prediction]) -> Drift:
    return drift(
        [prediction.extrinsics for prediction in predictions],
        [prediction.depth for prediction in predictions],
        [prediction.extrinsics for prediction in reference],
        [prediction.depth for prediction in reference],
    )
