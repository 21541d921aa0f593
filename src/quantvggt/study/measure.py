"""From a cell of the plan to its row."""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from quantvggt import api
from quantvggt.calibrate.methods import find_method, needs_clips
from quantvggt.checkpoint.locate import stored_bytes
from quantvggt.core.machine import environment, source_commit
from quantvggt.core.memory import peak_memory
from quantvggt.core.scheme import Scheme
from quantvggt.evaluate.protocols.published import default_protocol
from quantvggt.evaluate.run import Row, predict, score
from quantvggt.models import Model
from quantvggt.study.inputs import Inputs, fingerprint
from quantvggt.study.plan import Calibration, Cell
from quantvggt.study.store import Setup

PROTOCOL = default_protocol("synthetic", relpose="quantvggt")
"""All rows of docs/results.json have the form of the relative pose that the published study has."""


def measuring(setup: Setup, folder: Path) -> Callable[[Cell], Row]:
    """`measure` with the inputs of `setup`, kept in `folder`: what a worker does."""
    return partial(measure, inputs=Inputs(setup, folder))


def measure(cell: Cell, inputs: Inputs) -> Row:
    """Quantize, save for its size, judge the model in memory.

    The keys are those of docs/cli.md and: key; model_sha256, the start of that of the float weights; settings;
    calibration: strategy, size and so on, and how many of the chosen clips are broken, null where none is needed;
    calibration_s, calibration_peak_bytes: processor time that `quantvggt.quantize` took, and peak memory beyond what
    the process held before it (null where it isn't known); evaluation_s: processor time; scenes; versions, machine,
    commit: what it was measured with, see `core.machine`. Raises ValueError if a number isn't finite.
    """
    origin = {**environment(), "commit": source_commit()}
    row = {**_measured(cell, inputs), **origin}
    json.dumps(row, allow_nan=False)
    return row


def _measured(cell: Cell, inputs: Inputs) -> Row:
    reference = inputs.reference(cell.form)
    model = inputs.model(cell.form)
    clips = inputs.held_out(model.image_size)
    known: Row = {"name": cell.form, "method": cell.method, "scheme": cell.scheme, "seed": cell.seed}
    extra: Row = {"key": cell.key, "model_sha256": fingerprint(cell.form), "settings": dict(cell.settings)}
    if cell.method == "float":
        row = score(reference, clips, None, **known, protocol=PROTOCOL, checkpoint_bytes=_saved_bytes(model))
        return {**row, **extra, "calibration": None, "scenes": len(clips)}

    scheme = Scheme.parse(cell.scheme)
    needed = needs_clips(find_method(cell.method), scheme)
    seen = inputs.calibration(cell.form, cell.calibration, cell.seed) if needed else []
    start = time.process_time()
    with peak_memory() as peak:
        small = api.quantize(model, scheme, cell.method, seen, cell.seed, dict(cell.settings), progress=False)
    extra["calibration_s"] = round(time.process_time() - start, 3)
    extra["calibration_peak_bytes"] = peak.bytes
    start = time.process_time()
    answers = predict(small, clips, progress=False, dense_frames=inputs.setup.dense_frames)
    row = score(answers, clips, reference, **known, protocol=PROTOCOL, checkpoint_bytes=_saved_bytes(small))
    extra["evaluation_s"] = round(time.process_time() - start, 3)
    extra["calibration"] = None
    if needed:
        broken = sum("broken" in clip.source for clip in seen)
        extra["calibration"] = {**_described(cell.calibration), "broken_chosen": broken}
    return {**row, **extra, "scenes": len(clips)}


def _described(calibration: Calibration) -> dict[str, Any]:
    return {**asdict(calibration), "settings": dict(calibration.settings)}


def _saved_bytes(model: Model) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return stored_bytes(api.save(model, Path(folder) / "model"))
