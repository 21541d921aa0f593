"""The models that the app offers, each in the precisions that it comes in, and how one is opened."""

import os
from dataclasses import dataclass
from pathlib import Path

from quantvggt.checkpoint.config import CONFIG_NAME, read_config
from quantvggt.checkpoint.load import Precision, outline
from quantvggt.checkpoint.locate import locate
from quantvggt.checkpoint.packaged import NAMES
from quantvggt.core.errors import InputError
from quantvggt.serve.child import Work
from quantvggt.serve.worker import open_model

FULL = "full precision"
SCHEMES = ("w8a8", "w4a4")
"""Of the packaged models, which are small enough to be quantized when they are first asked for."""
CLIPS, FRAMES = 4, 4
"""Synthetic clips that they are then calibrated on: less than `quantize` takes, and done in seconds."""


@dataclass(frozen=True)
class Choice:
    """model: as `load` takes it. precision: FULL, a scheme of SCHEMES, or how the checkpoint says it was quantized."""

    model: str
    precision: str = FULL


def precisions(model: str) -> list[str]:
    """What a model comes in, the first by default. Raises InputError if there is no such model."""
    outline(model)  # which fetches it, and says what is wrong with it
    if model in NAMES:
        return [FULL, *SCHEMES]
    config = read_config(locate(model).parent / CONFIG_NAME)
    if config is None or config.quantization is None:
        return [FULL]
    return [f"{config.quantization.scheme.name} ({config.quantization.method})"]


def full_precision(choice: Choice, reference: str | None) -> Choice | None:
    """What a choice is compared with: a packaged model itself, else `reference`; None: nothing."""
    if choice.precision == FULL:
        return None
    if choice.model in NAMES:
        return Choice(choice.model)
    return None if reference is None else Choice(reference)


def check_reference(reference: str) -> None:
    """Raises InputError unless it is a model in full precision."""
    if FULL not in precisions(reference):
        raise InputError(f"--reference {reference} is quantized; name the model that it was made from")


def open_choice(choice: Choice, store: Path, device: str, dtype: Precision | None) -> Work:
    """The work of a process that has this model; what is quantized for it is kept in the folder `store`."""
    name = choice.model
    if choice.precision in SCHEMES and name in NAMES:
        name = f"{name}-{choice.precision}"
        if not (store / name).exists():
            _quantize(choice, store / name)
        os.chdir(store)  # so that scenes tell the model's name, and not where it lies
    return open_model(name, device, dtype)


def _quantize(choice: Choice, folder: Path) -> None:
    from quantvggt import api
    from quantvggt.scenes.calibration import calibration_clips

    model = api.load(choice.model)
    clips = calibration_clips("synthetic", CLIPS, FRAMES, model.image_size)
    api.save(api.quantize(model, choice.precision, calibration=clips, progress=False), folder)
