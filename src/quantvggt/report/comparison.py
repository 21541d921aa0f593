"""Rows of any protocol as people read them: which numbers they have, what these mean, and how they are shown."""

from collections.abc import Callable, Sequence
from typing import Literal

from quantvggt.evaluate.run import Row
from quantvggt.report.table import COLUMNS, Column


def _plain(places: int) -> tuple[Callable[[float], str], Callable[[float], str]]:
    """A number, and a signed one; what rounds to zero is +0, never -0."""
    return lambda value: f"{value:.{places}f}", lambda value: f"{round(value, places) + 0.0:+.{places}f}"


def _share(key: str, title: str, short: str) -> Column:
    return Column(key, title, short, "higher", *_plain(3))


def _length(key: str, title: str, short: str, better: Literal["higher", "lower"] = "lower") -> Column:
    return Column(key, title, short, better, lambda value: f"{value:.4g}", lambda value: f"{value:+.3g}")


OF_BENCHMARKS = (
    _length("acc_mean", "Accuracy, mean", "acc"),
    _length("acc_med", "Accuracy, median", "acc med."),
    _length("comp_mean", "Completeness, mean", "comp"),
    _length("comp_med", "Completeness, median", "comp med."),
    _share("nc_mean", "Normals, mean", "NC"),
    _share("nc_med", "Normals, median", "NC med."),
    _share("precision", "Precision", "precision"),
    _share("recall", "Recall", "recall"),
    _share("fscore", "F-score", "F-score"),
    _length("depth_sqrel", "Depth SqRel", "SqRel"),
    _length("depth_rmse", "Depth RMSE", "RMSE"),
    _length("depth_log_rmse", "Depth log RMSE", "log RMSE"),
    _share("depth_delta1", "Depth δ < 1.25", "δ<1.25"),
    _length("ate", "ATE", "ATE"),
    _length("rpe_translation", "RPE, translation", "RPE trans."),
    _length("rpe_rotation_deg", "RPE, rotation °", "RPE rot."),
)


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """Those that at least one row has a number for."""
    accuracy = [column for column in COLUMNS if not column.key.startswith("drift")]
    drift = [column for column in COLUMNS if column.key.startswith("drift")]
    return [
        column for column in (*accuracy, *OF_BENCHMARKS, *drift) if any(row.get(column.key) is not None for row in rows)
    ]


def told_of(row: Row) -> str:
    """What stands behind a model's name where two rows may be of one model."""
    fast = ", fast attention" if row["attention"] == "fast" else ""
    return fast + (f", {row['attention_bits']}-bit queries and keys" if row["attention_bits"] != 16 else "")


def shown(column: Column, row: Row, base: Row | None) -> tuple[str, str, str]:
    """A number, its interval, and its difference from `base` with its interval: "-" or "" where there is none."""
    value = row.get(column.key)
    if value is None:
        return "-", "", ""
    bounds = row["intervals"].get(column.key)
    interval = "" if bounds is None else f"{column.show(bounds[0])} to {column.show(bounds[1])}"
    change = (row["difference"] or {}).get(column.key)
    if base is None or change is None or column.difference is None:
        return column.show(value), interval, ""
    value, low, high = map(column.difference, change)
    return column.show(row[column.key]), interval, f"{value} ({low} to {high})"
