"""The models of a table, quantized from a float one: made once, kept, and gone on with after an interruption."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantvggt import api
from quantvggt.calibrate.journal import ROOMS, discard
from quantvggt.calibrate.methods import make_method, needs_clips
from quantvggt.checkpoint.locate import content_digest
from quantvggt.core.scheme import Scheme
from quantvggt.evaluate.config import TableRow
from quantvggt.jobs.store import Store, task_of
from quantvggt.scenes.calibration import calibration_clips


@dataclass(frozen=True)
class Learning:
    """What methods learn from: as `quantvggt quantize` has it. Rows with a strategy choose their clips from a pool of
    `pool` candidates."""

    calibration: str = "synthetic"
    clips: int = 16
    frames: int = 8
    seed: int = 0
    pool: int = 400


def make(model: str, row: TableRow, learning: Learning, folder: Path, device: str) -> Path:
    """The checkpoint of `row` made from the float model named `model`, in `folder`.

    What lies there from the same weights, row, clips' source, and code isn't made again. Raises InputError on an
    unknown method, setting or scheme, or a calibration set that can't be read.
    """
    assert row.method is not None
    scheme, settings = Scheme.parse(row.scheme), dict(row.settings)
    method = make_method(row.method, settings, learning.seed)
    name = "-".join([row.scheme, row.method, *(f"{key}={value}" for key, value in settings.items())])
    name += f"-{row.strategy}" if row.strategy else ""
    target = folder / name
    inputs: dict[str, Any] = {"model": content_digest(model), "name": name, "learning": repr(learning)}
    store = Store(folder, task_of(inputs, rooms=ROOMS))
    if store.read(f"{name}.json") is not None and target.is_dir():
        return target
    exact = api.load(model, device=device)
    clips = []
    if needs_clips(method, scheme):
        if row.strategy is None:
            clips = calibration_clips(learning.calibration, learning.clips, learning.frames, exact.image_size)
        else:
            chosen = api.select_calibration(
                *(exact, learning.calibration, learning.clips, row.strategy, learning.seed),
                pool_size=learning.pool,
                frames=learning.frames,
            )
            clips = list(chosen)
    journal = folder / f"{name}.unfinished"
    small = api.quantize(
        exact, scheme, row.method, clips, seed=learning.seed, settings=settings, journal=journal if clips else None
    )
    api.save(small, target, overwrite=True)
    discard(journal)
    store.write(f"{name}.json", {"model": model})
    return target
