"""What cells share and nobody should compute twice: held-out clips, the float model's answers, calibration sets.

Everything is kept in one folder of files that may be deleted at any time.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quantvggt import api
from quantvggt.calibrate.sampling.features import PoolFeatures, pool_features
from quantvggt.calibrate.sampling.strategies import choose
from quantvggt.checkpoint.load import locate
from quantvggt.core.errors import InputError
from quantvggt.core.files import atomic_file
from quantvggt.evaluate.run import Prediction, predict
from quantvggt.models import Model
from quantvggt.scenes.calibration import CALIBRATION_SEED
from quantvggt.scenes.clip import Clip, GroundTruth
from quantvggt.scenes.corruption import synthetic_pool
from quantvggt.scenes.synthetic import make_clips
from quantvggt.study.plan import Calibration
from quantvggt.study.store import Setup

FRESH = "fresh"
SEEDS_APART = 1000
"""Fresh calibration sets of different seeds start so many scenes apart."""


def fingerprint(form: str) -> str:
    """The first 12 digits of the SHA-256 of the form's weights; InputError if there is no such form."""
    path = locate(form)
    if not path.is_file():
        raise InputError(f"no weights at {path}")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


class Inputs:
    """The inputs of one setup at one image size; `folder` keeps them between runs."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        self.setup, self.folder = setup, folder
        self.held_out = lru_cache(1)(self._held_out)
        self.model = lru_cache(2)(self._model)
        self.reference = lru_cache(2)(self._reference)
        self.calibration = lru_cache(4)(self._calibration)
        self._features = lru_cache(4)(self._pool_features)
        self._pool = lru_cache(1)(self._make_pool)

    def _model(self, form: str) -> Model:
        return api.load(form, dtype=torch.float32)

    def _held_out(self, size: int) -> list[Clip]:
        """The scenes that every cell is judged on, of size x size pixels."""
        first, count = self.setup.first_seed, self.setup.scenes
        return self._synthetic(first, count, size)

    def _reference(self, form: str) -> list[Prediction]:
        """The float model's answers to the held-out clips."""
        shown = self.setup.dense_frames
        path = self.folder / f"reference-{form.replace('/', '_')}-{fingerprint(form)}-{self._spelled()}.pt"

        def make() -> dict[str, Tensor]:
            model = self.model(form)
            answers = predict(model, self.held_out(model.image_size), label=form, dense_frames=shown)
            names = Prediction.__dataclass_fields__
            return {name: torch.from_numpy(np.stack([getattr(answer, name) for answer in answers])) for name in names}

        stored = {name: values.numpy() for name, values in _kept(path, make).items()}
        return [
            Prediction(**{name: values[index] for name, values in stored.items()}) for index in range(self.setup.scenes)
        ]

    def _calibration(self, form: str, spec: Calibration, seed: int) -> list[Clip]:
        """The clips that `spec` names: fresh ones of that seed, or a seed's choice from the one pool."""
        size = self.model(form).image_size
        if spec.strategy == FRESH:
            return self._synthetic(CALIBRATION_SEED + SEEDS_APART * seed, spec.size, size)
        features = self._features(form, spec.pool, spec.broken)
        choice = choose(features, spec.size, spec.strategy, seed, dict(spec.settings))
        pool = self._pool(spec.pool, spec.broken, size)
        return [pool[index] for index in choice.indices.tolist()]

    def _pool_features(self, form: str, count: int, broken: float) -> PoolFeatures:
        path = (
            self.folder
            / f"pool-{count}-{broken}-{self.setup.frames}-{form.replace('/', '_')}-{fingerprint(form)}.safetensors"
        )
        if path.is_file():
            return PoolFeatures.load(path)
        model = self.model(form)
        features = pool_features(model, self._pool(count, broken, model.image_size))
        features.save(path)
        return features

    def _make_pool(self, count: int, broken: float, size: int) -> list[Clip]:
        return synthetic_pool(count, self.setup.frames, broken, size=size)

    def _synthetic(self, first: int, count: int, size: int) -> list[Clip]:
        """The scenes of seeds `first`, ..., rendered once: the same clips, bit for bit, as `make_clips` gives."""
        frames = self.setup.frames
        path = self.folder / f"scenes-{first}-{count}-{frames}-{size}.pt"

        def make() -> dict[str, Tensor]:
            clips = make_clips(range(first, first + count), frames, size)
            truths = [clip.truth for clip in clips if clip.truth is not None]
            return {
                "pixels": torch.stack([(clip.images * 255).round().to(torch.uint8) for clip in clips]),
                "extrinsics": torch.stack([truth.extrinsics for truth in truths]),
                "intrinsics": torch.stack([truth.intrinsics for truth in truths]),
                "depth": torch.stack([truth.depth for truth in truths]),
            }

        stored = _kept(path, make)
        truths = zip(stored["extrinsics"], stored["intrinsics"], stored["depth"], strict=True)
        return [
            Clip(
                images=pixels.float().div_(255),
                names=[f"synthetic_{seed}_{frame:03d}" for frame in range(frames)],
                source={"kind": "synthetic", "seed": seed, "frames": frames, "height": size, "width": size},
                truth=GroundTruth(*truth),
            )
            for seed, pixels, truth in zip(range(first, first + count), stored["pixels"], truths, strict=True)
        ]

    def _spelled(self) -> str:
        setup = self.setup
        return f"{setup.first_seed}-{setup.scenes}-{setup.frames}-{setup.dense_frames}"


def _kept(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors in the file at `path`; `make` fills it if it isn't there."""
    if not path.is_file():
        tensors = make()
        with atomic_file(path) as temporary:
            torch.save(tensors, temporary)
    stored: dict[str, Tensor] = torch.load(path, weights_only=True)
    return stored
