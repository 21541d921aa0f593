"""The whole main job on real input, in a few minutes on two cores: what `make demo` runs."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from quantvggt import api
from quantvggt.checkpoint.locate import stored_bytes
from quantvggt.core.errors import InputError
from quantvggt.core.machine import environment
from quantvggt.evaluate.run import Row, evaluate, predict, score
from quantvggt.models import Model
from quantvggt.report.table import format_table, label
from quantvggt.report.write import write_report
from quantvggt.scenes.calibration import CALIBRATION_SEED
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clip
from quantvggt.viewer.page import write_page

MODEL = "vggt-nano"
SCHEMES = ("w8a8", "w4a4", "w3a3")
METHODS = ("rtn", "dsfq", "best")
SHOWN = ("w4a4", "best")
FRAMES = 8
PICTURED = 3
"""Which held-out scene is shown: one with many solids."""
EXPORTS = ("cameras", "colmap", "ply", "glb", "depth")


def run_demo(
    folder: str | os.PathLike[str] = "runs/demo", scenes: int = 64, calibration: int = 16, seed: int = 0
) -> dict[str, Any]:
    """Quantize vggt-nano by every demo scheme and method, judge the reloaded checkpoints, show a scene.

    folder: gets report.html, report.json, scene.html, scene/ (the exports) and checkpoints/; a former demo's
    files there are replaced. scenes: held-out evaluation scenes of 8 frames; calibration: other scenes that
    the methods look at; seed: of the methods' random choices and of the calibration scenes.
    Progress and the result table go to stderr. Returns what report.json holds.

    Raises InputError if `scenes` or `calibration` is below 1, or the folder cannot be written.
    """
    if scenes < 1 or calibration < 1:
        raise InputError(f"the demo needs at least 1 scene of each kind, got {scenes} and {calibration}")
    with _one_thread_per_clip() as workers:
        return _run(Path(folder), scenes, calibration, seed, workers)


def _run(folder: Path, scenes: int, calibration: int, seed: int, workers: int) -> dict[str, Any]:
    durations: dict[str, float] = {}
    with _stage("Making synthetic scenes", durations):
        seen = _clips(CALIBRATION_SEED + 1000 * seed, calibration, "calibration")
        held_out = _clips(HELD_OUT_SEED, scenes, "held out")

    with _stage("Full precision", durations):
        model, size = _stored(api.load(MODEL, dtype=torch.float32), folder / "checkpoints" / "float")
        reference = predict(model, held_out, label="evaluate", workers=workers)
        known: dict[str, Any] = {"name": MODEL, "seed": seed}
        known |= {"method": "float", "scheme": "float32", "checkpoint_bytes": size}
        rows = [score(reference, held_out, None, **known)]

    shown, shown_row = model, rows[0]
    for scheme, method in product(SCHEMES, METHODS):
        with _stage(f"{scheme.upper()} {method}", durations):
            small = api.quantize(model, scheme=scheme, method=method, calibration=seen, seed=seed)
            small, size = _stored(small, folder / "checkpoints" / f"{scheme}-{method}")
            known |= {"method": method, "scheme": scheme, "checkpoint_bytes": size}
            row = evaluate(small, held_out, reference, **known, workers=workers)
            rows.append(row)
        if (scheme, method) == SHOWN:
            shown, shown_row = small, row

    with _stage("Reconstructing a held-out scene", durations):
        clip = held_out[min(PICTURED, scenes - 1)]
        views = {"Full precision": api.reconstruct(model, clip, model_name=MODEL)}
        scene = views[label(shown_row)] = api.reconstruct(shown, clip, model_name=MODEL)
        scene.export(folder / "scene", formats=EXPORTS, overwrite=True)
        write_page(scene, folder / "scene.html", f"A held-out scene by {MODEL}, {label(shown_row)}")

    provenance = {
        "scenes": {"held out": _described(held_out), "calibration": _described(seen)},
        "seeds": [seed],
        **environment(),
        "clips_at_once": workers,
        "durations_s": durations,
    }
    write_report(
        rows,
        folder,
        title=f"{MODEL}, quantized",
        summary=_summary(scenes, calibration),
        scenes=views,
        highlight=shown_row,
        provenance=provenance,
    )
    _finish(rows, folder, sum(durations.values()))
    return {"rows": rows, **provenance}


def _clips(first_seed: int, count: int, name: str) -> list[Clip]:
    seeds = range(first_seed, first_seed + count)
    return [make_clip(seed, FRAMES) for seed in tqdm(seeds, desc=name, unit="scene")]


def _stored(model: Model, folder: Path) -> tuple[Model, int]:
    """The model as it comes back from disk, and its bytes there."""
    api.save(model, folder, overwrite=True)
    return api.load(folder, dtype=torch.float32), stored_bytes(folder)


@contextmanager
def _one_thread_per_clip() -> Iterator[int]:
    """Yield how many clips to run at once; the model is too small for a second thread to pay."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _stage(title: str, durations: dict[str, float]) -> Iterator[None]:
    print(f"\n{title}", file=sys.stderr)
    start = time.perf_counter()
    yield
    durations[title] = round(time.perf_counter() - start, 1)


def _summary(scenes: int, calibration: int) -> str:
    pairs = scenes * FRAMES * (FRAMES - 1) // 2
    return (
        f"A small trained VGGT, quantized by different methods with {calibration} calibration scenes, saved, "
        f"reloaded from disk, and judged on {scenes} synthetic scenes of {FRAMES} frames ({pairs} pairs of "
        "cameras) that neither its training nor the calibration has seen. Every number comes from this run."
    )


def _described(clips: list[Clip]) -> str:
    first, last, (height, width) = clips[0], clips[-1], clips[0].images.shape[-2:]
    seeds = f"{first.source['seed']} to {last.source['seed']}"
    return f"{len(clips)} synthetic scenes of {FRAMES} frames of {width}x{height}, seeds {seeds}"


def _finish(rows: list[Row], folder: Path, seconds: float) -> None:
    places = {
        "report.html": "the table, plots and the scene in 3D; open it in a browser",
        "report.json": "the same numbers for programs",
        "scene.html": f"the scene reconstructed by the {SHOWN[0].upper()} {SHOWN[1]} model, in 3D",
        "scene": "its cameras, COLMAP model, points.ply, scene.glb and depth maps",
        "checkpoints": "every saved model",
    }
    print(
        f"\n{format_table(rows)}\n\n"
        "AUC from 0 to 100, depth and point errors in percent, each followed by its difference from full "
        "precision.\nDrift is the median change of the full-precision model's own answers. "
        f"Done in {seconds:.0f} s. Look at\n",
        tabulate([(folder / name, what) for name, what in places.items()], tablefmt="plain", disable_numparse=True),
        sep="\n",
        file=sys.stderr,
    )
