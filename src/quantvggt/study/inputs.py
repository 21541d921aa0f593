"""What cells share and nobody should compute twice: held-out clips, the float model's answers, calibration sets.

Everything is kept in one folder of files that may be deleted at any time.
"""

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from quantvggt import api
from quantvggt.calibrate.sampling.features import PoolFeatures, pool_features
from quantvggt.calibrate.sampling.strategies import choose
from quantvggt.checkpoint.locate import locate
from quantvggt.core.errors import InputError
from quantvggt.evaluate.run import Prediction, predict
from quantvggt.jobs.store import Store, Tensors, task_of
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
SCENES = ("core", "jobs", "scenes", "study/inputs")
"""Whose code the pixels depend on."""
ANSWERS = (*SCENES, "api", "calibrate", "checkpoint", "evaluate", "kernels", "models", "nn", "reconstruction")
"""Whose code the models' answers depend on."""


def fingerprint(form: str) -> str:
    """The first 12 digits of the SHA-256 of the form's weights; InputError if there is no such form."""
    path = locate(form)
    if not path.is_file():
        raise InputError(f"no weights at {path}")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


class Inputs:
    """The inputs of one setup at one image size; `folder` keeps them between runs of the same code."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        self.setup, self.folder = setup, folder
        self._scenes, self._answers = (Store(folder, task_of(None, rooms=rooms)) for rooms in (SCENES, ANSWERS))
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
        name = f"reference-{form.replace('/', '_')}-{fingerprint(form)}-{self._spelled()}.safetensors"

        def make() -> tuple[Tensors, None]:
            model = self.model(form)
            answers = predict(model, self.held_out(model.image_size), label=form, dense_frames=shown)
            names = Prediction.__dataclass_fields__
            stacks = {name: np.stack([getattr(answer, name) for answer in answers]) for name in names}
            return {name: torch.from_numpy(stack) for name, stack in stacks.items()}, None

        stored = {name: values.numpy() for name, values in self._answers.tensors(name, make)[0].items()}
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
        of = f"{form.replace('/', '_')}-{fingerprint(form)}"

        def make() -> tuple[Tensors, dict[str, list[str]]]:
            model = self.model(form)
            return pool_features(model, self._pool(count, broken, model.image_size)).parts()

        name = f"pool-{count}-{broken}-{self.setup.frames}-{of}.safetensors"
        return PoolFeatures.of_parts(*self._answers.tensors(name, make))

    def _make_pool(self, count: int, broken: float, size: int) -> list[Clip]:
        return synthetic_pool(count, self.setup.frames, broken, size=size)

    def _synthetic(self, first: int, count: int, size: int) -> list[Clip]:
        """The scenes of seeds `first`, ..., rendered once: the same clips, bit for bit, as `make_clips` gives."""
        frames = self.setup.frames

        def make() -> tuple[Tensors, None]:
            clips = make_clips(range(first, first + count), frames, size)
            truths = [clip.truth for clip in clips if clip.truth is not None]
            return {
                "pixels": torch.stack([(clip.images * 255).round().to(torch.uint8) for clip in clips]),
                "extrinsics": torch.stack([truth.extrinsics for truth in truths]),
                "intrinsics": torch.stack([truth.intrinsics for truth in truths]),
                "depth": torch.stack([truth.depth for truth in truths]),
            }, None

        stored, _ = self._scenes.tensors(f"scenes-{first}-{count}-{frames}-{size}.safetensors", make)
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
