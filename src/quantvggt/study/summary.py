"""Rows of the study put together over seeds: mean and deviation of every number that the tables show."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Literal

from quantvggt.evaluate.run import Row
from quantvggt.study.plan import FIXED, Entry


@dataclass(frozen=True)
class Metric:
    """A column: `value` takes a row and its form's full-precision row; None where the row doesn't have it."""

    title: str
    value: Callable[[Row, Row], float | None]
    digits: int
    better: Literal["higher", "lower", ""] = ""
    spread: bool = True


def _scaled(key: str, factor: float) -> Callable[[Row, Row], float | None]:
    return lambda row, base: None if row.get(key) is None else factor * row[key]


def _kept(row: Row, base: Row) -> float | None:
    return 100 * row["auc30"] / base["auc30"] if base["auc30"] else None


def _broken_chosen(row: Row, base: Row) -> float | None:
    return None if row.get("calibration") is None else row["calibration"]["broken_chosen"]


AUC = {limit: Metric(f"AUC@{limit}", _scaled(f"auc{limit}", 100), 1, "higher") for limit in (30, 15, 5, 3)}
KEPT = Metric("kept, %", _kept, 1, "higher", spread=False)
ABSREL = Metric("AbsRel, %", _scaled("depth_absrel", 100), 2, "lower")
ACCURACY = Metric("accuracy, %", _scaled("point_accuracy", 100), 2, "lower")
COMPLETENESS = Metric("completeness, %", _scaled("point_completeness", 100), 2, "lower")
ROTATION = Metric("rotation drift, °", _scaled("drift_rotation_deg", 1), 3, "lower")
DIRECTION = Metric("direction drift, °", _scaled("drift_translation_deg", 1), 3, "lower")
DEPTH = Metric("depth drift, %", _scaled("drift_depth", 100), 2, "lower")
SECONDS = Metric("calibration, s", _scaled("calibration_s", 1), 1)
MEMORY = Metric("peak, MB", _scaled("calibration_peak_bytes", 1e-6), 0, spread=False)
SIZE = Metric("checkpoint, MB", _scaled("checkpoint_bytes", 1e-6), 1, spread=False)
BROKEN = Metric("broken clips chosen", _broken_chosen, 1)

QUALITY = (*AUC.values(), KEPT, ABSREL, ACCURACY, COMPLETENESS, ROTATION, DIRECTION, DEPTH)


@dataclass(frozen=True)
class Group:
    """The rows of one table cell: those of its seeds that are done, of `planned`, and the full-precision row.

    fixed: the method has no randomness, so one run stands for every seed.
    """

    rows: tuple[Row, ...]
    base: Row
    planned: int
    fixed: bool

    def mean(self, metric: Metric) -> float | None:
        """None without a row that has the number."""
        values = self._values(metric)
        return mean(values) if values else None

    def show(self, metric: Metric) -> str:
        """ "85.1 ± 0.3", with the deviation over seeds (n - 1) where there are two or more; how many seeds are done
        where some are missing; "" without any."""
        values = self._values(metric)
        if not values:
            return ""
        text = f"{mean(values) + 0.0:.{metric.digits}f}"
        if metric.spread and (len(values) > 1 or self.fixed):
            text += f" ± {stdev(values) if len(values) > 1 else 0:.{metric.digits}f}"
        if len(self.rows) < self.planned:
            text += f" ({len(self.rows)} of {self.planned})"
        return text

    def _values(self, metric: Metric) -> list[float]:
        values = (metric.value(row, self.base) for row in self.rows)
        return [value for value in values if value is not None]


Groups = dict[tuple[str, str, str], Group]


def groups_of(part: str, plan: Sequence[Entry], rows: Mapping[str, Row]) -> Groups:
    """(form, bit widths, label) -> group, in the plan's order, of the forms whose full precision is measured."""
    keys: dict[tuple[str, str, str], dict[str, bool]] = {}
    for entry in plan:
        cell = entry.cell
        if entry.part == part and f"{cell.form}/float" in rows:
            place = (cell.form, cell.scheme.partition("-")[0], entry.label)
            keys.setdefault(place, {})[cell.key] = cell.method in FIXED
    return {
        place: Group(
            rows=tuple(rows[key] for key in members if key in rows),
            base=rows[f"{place[0]}/float"],
            planned=len(members),
            fixed=all(members.values()),
        )
        for place, members in keys.items()
    }
