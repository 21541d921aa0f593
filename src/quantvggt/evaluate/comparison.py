"""Several models on the same frames: measured scene by scene, anywhere, and kept, so that nothing is measured twice."""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from quantvggt import api
from quantvggt.checkpoint.load import Precision, outline
from quantvggt.checkpoint.locate import content_digest
from quantvggt.core.errors import InputError
from quantvggt.evaluate.metrics.drift import clip_drift
from quantvggt.evaluate.overlap import Seen
from quantvggt.evaluate.prediction import Prediction
from quantvggt.evaluate.protocols.contract import Protocol
from quantvggt.evaluate.run import predict, require_heads
from quantvggt.jobs.executor import Place
from quantvggt.jobs.store import Store, task_of
from quantvggt.models import Model
from quantvggt.models.quantization import Quantization
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.datasets import Dataset, Drawn, Picture, open_dataset
from quantvggt.scenes.fingerprint import frame_prints
from quantvggt.scenes.preprocess import PATCH

ROOMS = ("api", "checkpoint", "core", "evaluate", "kernels", "models", "nn", "reconstruction", "scenes")
"""Whose code a scene's numbers depend on."""
MADE_FOR = 518
"""Pixels, of the models that protocols prepare pictures for."""
VGGTS_OWN = "crop"

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Entrant:
    """A model that is compared. name: as the user has it; label: the same, unless two would be alike; dtype, device: as
    `api.load` takes them, device also "auto"; attention, attention_bits: as `Model` takes them."""

    name: str
    label: str
    path: str
    dtype: Precision | None
    device: str
    digest: str
    image_size: int
    preprocessing: str
    quantization: Quantization | None
    attention: str
    attention_bits: int

    @classmethod
    def of(
        cls, name: str, dtype: Precision | None, device: str, attention: str = "exact", attention_bits: int = 16
    ) -> "Entrant":
        """Raises InputError if there is no such model, or it lacks what evaluation needs."""
        empty = outline(name)
        require_heads(empty)
        empty.attention, empty.attention_bits = attention, attention_bits  # not every family can
        path = os.path.abspath(os.path.expanduser(name)) if Path(name).expanduser().exists() else name
        made_for = empty.image_size, empty.preprocessing
        of = content_digest(name), *made_for, empty.quantization
        return cls(name, name, path, dtype, device, *of, attention, attention_bits)

    @property
    def way(self) -> tuple[str, str, str, str]:
        """What decides its answers: content, precision, attention and its bits."""
        return self.digest, str(self.dtype), self.attention, str(self.attention_bits)

    def load(self) -> Model:
        """On the machine where it is called."""
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = api.load(self.path, dtype=self.dtype, device=device)
        model.attention, model.attention_bits = self.attention, self.attention_bits
        return model


@dataclass(frozen=True)
class Comparison:
    """What is compared on what. drawn: scenes and frames; reference: the label of the full-precision model that drifts
    are from, one of the entrants. Labels differ. Raises InputError if the reference takes other pictures."""

    protocol: Protocol
    root: str | None
    drawn: tuple[Drawn, ...]
    entrants: tuple[Entrant, ...]
    reference: str | None = None

    def __post_init__(self) -> None:
        pictures = {entrant.label: (entrant.image_size, entrant.preprocessing) for entrant in self.entrants}
        if self.reference is not None and len(set(pictures.values())) > 1:
            told = ", ".join(f"{label} {size} pixels, {mode}" for label, (size, mode) in pictures.items())
            raise InputError(f"drift needs the same pictures for all models, which take {told}; leave --reference out")

    def stores(self, folder: Path) -> dict[str, Store]:
        """Where each entrant's scenes are kept."""
        exact = next((e.way for e in self.entrants if e.label == self.reference), None)
        protocol = repr(replace(self.protocol, about=""))
        return {
            entrant.label: Store(
                folder / "-".join((entrant.digest[:16], self.protocol.name, *entrant.way[1:])),
                task_of([protocol, self.root, entrant.way, exact], rooms=ROOMS),
            )
            for entrant in self.entrants
        }


class Ask(NamedTuple):
    """A scene to be measured, for the models with these labels."""

    drawn: Drawn
    labels: tuple[str, ...]


class Measured(NamedTuple):
    """A scene's numbers by label; or what went wrong."""

    scene: str
    numbers: dict[str, Numbers]
    error: str = ""


def measure_all(comparison: Comparison, folder: Path, place: Place) -> Iterator[Measured]:
    """Every scene once, kept ones first, the others as they come. Each is kept in `folder` before it is given.

    A scene whose files have changed since is measured again; one that doesn't say which files it is isn't kept.
    """
    stores = comparison.stores(folder)
    found: dict[str, dict[str, Numbers]] = {}
    missing: dict[str, Ask] = {}
    for drawn in comparison.drawn:
        kept = {label: store.read(_entry(drawn)) for label, store in stores.items()}
        found[drawn.scene] = {label: one["numbers"] for label, one in kept.items() if one and _unchanged(one["files"])}
        lacking = tuple(label for label in stores if label not in found[drawn.scene])
        if lacking:
            missing[drawn.scene] = Ask(drawn, lacking)
        else:
            yield Measured(drawn.scene, found[drawn.scene])
    if not missing:
        return
    with place.open(partial(measuring, comparison), len(missing)) as executor:
        for scene, result, error in executor.run(iter(missing.items())):
            if error:
                yield Measured(scene, {}, error.partition("\n")[0])
                continue
            numbers, files = result
            if files is not None:
                for label in numbers:
                    stores[label].write(_entry(missing[scene].drawn), {"numbers": numbers[label], "files": files})
            yield Measured(scene, {**found[scene], **numbers})


def measuring(comparison: Comparison) -> Callable[[Ask], Any]:
    """What a worker does: the models are loaded when a scene first needs them, and stay."""
    with warnings.catch_warnings():  # whoever drew the scenes has heard what the dataset lacks
        warnings.simplefilter("ignore")
        dataset = open_dataset(comparison.protocol.dataset, comparison.root)
    entrants = {entrant.label: entrant for entrant in comparison.entrants}
    return partial(_measure, comparison, dataset, cache(lambda label: entrants[label].load()))


def _measure(
    comparison: Comparison, dataset: Dataset, model_of: Callable[[str], Model], ask: Ask
) -> tuple[dict[str, Numbers], list[list[Any]] | None]:
    """The numbers by label, and the files that they are from."""

    @cache
    def clip_of(picture: Picture) -> Clip:
        return dataset.clip(*ask.drawn, picture)

    @cache
    def answer_of(label: str) -> Prediction:
        return predict(model_of(label), [clip_of(pictures[label])], progress=False)[0]

    pictures = {e.label: fitted(comparison.protocol.picture, e) for e in comparison.entrants}

    numbers: dict[str, Numbers] = {}
    files = None
    for label in ask.labels:
        clip, answer = clip_of(pictures[label]), answer_of(label)
        files = _files(clip.source)
        measured = {**comparison.protocol.measure(answer, clip), "frames": len(clip.names)}
        measured["prints"] = frame_prints(clip.source)
        if comparison.reference not in (None, label) and len(clip.names) > 1:
            exact = answer_of(comparison.reference)
            drift = clip_drift(answer.extrinsics, answer.depth, exact.extrinsics, exact.depth)
            measured["drift"] = drift._asdict()
        numbers[label] = measured
    return numbers, files


def fitted(picture: Picture, entrant: Entrant) -> Picture:
    """How pictures are prepared for this model: as its family has it where the protocol has VGGT's own way, and smaller
    by as much as the model is made for smaller ones."""
    size = entrant.image_size
    if picture.mode == VGGTS_OWN:
        return Picture(size, entrant.preprocessing)
    if size == MADE_FOR:
        return picture
    step = 1 if picture.mode == "pi3" else PATCH
    width, height = (
        side and max(PATCH, round(side * size / MADE_FOR / step) * step) for side in (picture.size, picture.height)
    )
    return Picture(width or size, picture.mode, height)


def refuse_overlap(entrant: Entrant, scene: str, numbers: Numbers) -> None:
    """Raises InputError if the model was calibrated on frames of this scene."""
    count = Seen.by(entrant.quantization).among(numbers["prints"] or ())
    if count:
        raise InputError(
            f"{entrant.name} was calibrated on frames of scene {scene} that it would be judged on ({count}); "
            "calibrate on others, or pass --allow-overlap"
        )


def _entry(drawn: Drawn) -> str:
    """The name of a scene's file: readable, and unlike that of any other choice of frames."""
    readable = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in drawn.scene)[-80:]
    return f"{readable}-{hashlib.sha256(repr(tuple(drawn)).encode()).hexdigest()[:12]}.json"


def _files(source: Mapping[str, Any]) -> list[list[Any]] | None:
    """Path, size and time of the files that frames were read from; none of a synthetic scene, None if unknown."""
    if source.get("kind") == "synthetic":
        return []
    frames = source.get("frames")
    if not isinstance(frames, list) or not frames:
        return None
    return [_stamp(frame["path"]) for frame in frames]


def _stamp(path: str) -> list[Any]:
    try:
        found = os.stat(path)
    except OSError:
        return [path, None, None]
    return [path, found.st_size, found.st_mtime_ns]


def _unchanged(files: Sequence[Sequence[Any]]) -> bool:
    return all(_stamp(file[0]) == list(file) for file in files)
