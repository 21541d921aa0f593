"""Result rows as people read them: the columns, their meaning and format, and a plain-text table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tabulate import tabulate

from quantvggt.core.errors import InputError
from quantvggt.evaluate.run import AUC_THRESHOLDS, Row


@dataclass(frozen=True)
class Column:
    """One measured number: how it is shown, on the page and (`short`) in a terminal, and which way is better.

    show: value -> text; difference: value - full precision's value -> signed text, None where the number is
    itself a difference from full precision.
    """

    key: str
    title: str
    short: str
    better: Literal["higher", "lower"]
    show: Callable[[float], str]
    difference: Callable[[float], str] | None = None


def _hundredths(value: float) -> str:
    return f"{100 * value:.1f}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f}%"


def _degrees(value: float) -> str:
    return f"{value:.2f}°"


def _signed(places: int) -> Callable[[float], str]:
    """100 * value with its sign; what rounds to zero is +0, never -0."""
    return lambda value: f"{round(100 * value, places) + 0.0:+.{places}f}"


COLUMNS = (
    *(
        Column(f"auc{limit}", f"AUC@{limit}", f"AUC@{limit}", "higher", _hundredths, _signed(1))
        for limit in AUC_THRESHOLDS
    ),
    Column("depth_absrel", "Depth AbsRel", "AbsRel", "lower", _percent, _signed(2)),
    Column("point_error", "Point error", "points", "lower", _percent, _signed(2)),
    Column("drift_rotation_deg", "Drift, rotation", "drift: rot.", "lower", _degrees),
    Column("drift_translation_deg", "Drift, direction", "direction", "lower", _degrees),
    Column("drift_depth", "Drift, depth", "depth", "lower", _percent),
)

MEANINGS = {
    "Scheme, method": (
        "The scheme is the width of the numbers: W4A4 has 4-bit weights and 4-bit activations in every attention "
        "and MLP layer of the frame and global blocks; the rest of the model stays in floating point. The method "
        "is how the numbers are found: rtn rounds to nearest; dsfq (QuantVGGT, closed form) first rotates and smooths "
        "the channels, so that rounding costs less; best, our own, also centres them, keeps the camera and register "
        "tokens' activations at 8 bits, and rounds each weight so that it makes up for the others' errors."
    ),
    "Checkpoint": (
        "Bytes of the saved checkpoint on disk: the whole model, including the parts that stay in floating point. "
        "The factor compares with the full-precision checkpoint stored in FP16."
    ),
    "AUC@30, @15, @5, @3": (
        "Camera accuracy, 0 to 100. For each pair of frames the larger of two errors counts: the angle between "
        "the predicted and the true relative rotation, and the angle between the two directions of motion. AUC@N "
        "is the share of pairs within 1, 2, ... N degrees, averaged. A small N sees only very exact cameras. On a "
        "few dozen scenes a change of a point or so can be chance."
    ),
    "Depth AbsRel": (
        "Depth error: the mean of |predicted - true| / true over all pixels that have a true depth, after one "
        "common scale per clip (the ratio of the medians), because images alone leave the scale open."
    ),
    "Point error": (
        "3D error of the predicted point map: the mean distance to the true points after the best turn, shift and "
        "scale of the whole clip, as a fraction of the mean viewing distance."
    ),
    "Drift, rotation": (
        "How far quantization moved the cameras: the median angle between this model's relative rotations and "
        "those of the full-precision model on the same frames. The truth plays no part, so an error that happens "
        "to shrink does not count as an improvement."
    ),
    "Drift, direction": (
        "The same for the direction from one camera to another: the median angle to the full-precision model's."
    ),
    "Drift, depth": (
        "The same for depth: the median relative change of a pixel's depth against the full-precision model, "
        "after one common scale per clip."
    ),
}


def full_precision(rows: Sequence[Row]) -> Row:
    """The row of the float model that the others are compared with.

    Raises InputError unless there is exactly one.
    """
    found = [row for row in rows if row["method"] == "float"]
    if len(found) != 1:
        raise InputError(f"a report needs exactly one row of the float model to compare with, got {len(found)}")
    return found[0]


def human_bytes(count: int) -> str:
    """12_300_000 -> "12.3 MB"; decimal units."""
    size, units = float(count), ["bytes", "kB", "MB", "GB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} bytes" if units[0] == "bytes" else f"{size:.1f} {units[0]}"


def shrinkage(row: Row, base: Row) -> float:
    """How many times smaller the row's checkpoint is than full precision's."""
    return float(base["checkpoint_bytes"] / row["checkpoint_bytes"])


def label(row: Row) -> str:
    """How a row is named in prose: "W4A4 dsfq", or "full precision"."""
    return "full precision" if row["method"] == "float" else f"{row['scheme'].upper()} {row['method']}"


def format_table(rows: Sequence[Row]) -> str:
    """Aligned text: each number and, behind it, its difference from full precision."""
    base = full_precision(rows)
    head = ["scheme", "method", "checkpoint", *(column.short for column in COLUMNS)]
    body = [
        [
            row["scheme"],
            row["method"],
            f"{human_bytes(row['checkpoint_bytes'])} {shrinkage(row, base):.2f}x",
            *(" ".join(cell(column, row, base)) for column in COLUMNS),
        ]
        for row in rows
    ]
    return tabulate(body, head, disable_numparse=True)


def cell(column: Column, row: Row, base: Row) -> tuple[str, str]:
    """A number as text, "-" where it does not apply or was not measured, and its difference from full precision."""
    value = row[column.key]
    if value is None or (row is base and column.difference is None):
        return "-", ""
    difference = "" if row is base or column.difference is None else column.difference(value - base[column.key])
    return column.show(value), difference
