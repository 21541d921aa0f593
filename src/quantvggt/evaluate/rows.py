"""From the scenes of a comparison to one row for each model: numbers, how sure they are, and what they rest on."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from quantvggt.checkpoint.locate import stored_bytes
from quantvggt.evaluate.comparison import Comparison, Entrant, Numbers
from quantvggt.evaluate.metrics.drift import ClipDrift, Drift, pooled
from quantvggt.evaluate.overlap import Seen
from quantvggt.evaluate.run import ALWAYS, Row
from quantvggt.evaluate.statistics import Summary, bootstrap, paired_difference

Scenes = Mapping[str, Mapping[str, Numbers]]
"""The numbers of each label by scene."""


def rows_of(comparison: Comparison, scenes: Scenes, categories: Mapping[str, str], seed: int) -> list[Row]:
    """One row for each entrant, in their order; the keys are those of docs/cli.md.

    scenes: of each entrant's label, all that were drawn. categories: of the scenes. seed: of the draw.
    """
    names = [drawn.scene for drawn in comparison.drawn]
    summaries = {label: _summary(comparison, numbers, categories) for label, numbers in scenes.items()}
    rows = []
    for entrant in comparison.entrants:
        numbers, summary = scenes[entrant.label], summaries[entrant.label]
        difference = None
        if comparison.reference not in (None, entrant.label):
            difference = paired_difference(names, summary, summaries[comparison.reference])
        rows.append(
            {
                **_head(comparison, entrant, seed),
                **dict.fromkeys(ALWAYS),
                **summary(names),
                **_drifts(comparison, entrant, numbers),
                "dataset": comparison.protocol.dataset,
                "scenes": len(names),
                "frames": sum(scene["frames"] for scene in numbers.values()),
                "intervals": {key: list(bounds) for key, bounds in bootstrap(names, summary).items()},
                "difference": difference and {key: list(values) for key, values in difference.items()},
                "absent": _absent(numbers),
                "calibration": _calibration(entrant, numbers),
                "digest": entrant.digest,
                "attention": entrant.attention,
                "attention_bits": entrant.attention_bits,
            }
        )
    return rows


def _head(comparison: Comparison, entrant: Entrant, seed: int) -> Row:
    quantization, protocol = entrant.quantization, comparison.protocol
    precision = "float32" if entrant.dtype is None else str(entrant.dtype).removeprefix("torch.")
    return {
        "model": entrant.name,
        "method": quantization.method if quantization else "float",
        "scheme": quantization.scheme.name if quantization else precision,
        "seed": seed,
        "checkpoint_bytes": stored_bytes(entrant.path),
        "protocol": protocol.name,
        "relpose": protocol.relpose,
    }


def _summary(comparison: Comparison, scenes: Mapping[str, Numbers], categories: Mapping[str, str]) -> Summary:
    pairs = ("rotation_deg", "direction_deg")  # as arrays, once for all resamples
    quick = {
        name: {key: np.asarray(value) if key in pairs else value for key, value in numbers.items()}
        for name, numbers in scenes.items()
    }
    return lambda names: comparison.protocol.summarise(quick, categories, names)


def _drifts(comparison: Comparison, entrant: Entrant, scenes: Mapping[str, Numbers]) -> Row:
    """0 of the reference itself, and of a float model where there is none; None where it wasn't measured."""
    found = [ClipDrift(**numbers["drift"]) for numbers in scenes.values() if "drift" in numbers]
    if found:
        values: dict[str, Any] = pooled(found)._asdict()
    else:
        exact = entrant.label == comparison.reference or (comparison.reference is None and not entrant.quantization)
        values = dict.fromkeys(Drift._fields, 0.0 if exact else None)
    return {f"drift_{kind}": value for kind, value in values.items()}


def _absent(scenes: Mapping[str, Numbers]) -> dict[str, dict[str, int]]:
    """Of each part of the protocol that scenes lack: the reasons, and of how many scenes."""
    reasons: dict[str, Counter[str]] = {}
    for numbers in scenes.values():
        for part, reason in numbers["absent"].items():
            reasons.setdefault(part, Counter())[reason] += 1
    return {part: dict(counts) for part, counts in reasons.items()}


def _calibration(entrant: Entrant, scenes: Mapping[str, Numbers]) -> dict[str, Any]:
    """What the model was calibrated on, and how much of it is among the evaluated frames."""
    seen = Seen.by(entrant.quantization)
    frames = sum(numbers["frames"] for numbers in scenes.values())
    unknown = sum(numbers["frames"] for numbers in scenes.values() if numbers["prints"] is None)
    overlap = sum(seen.among(numbers["prints"] or ()) for numbers in scenes.values())
    return {
        "clips": seen.clips,
        "overlap": None if seen.clips and not overlap and (seen.unknown or unknown) else overlap,
        "told": seen.told(frames, overlap, unknown),
    }
