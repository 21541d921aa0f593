"""docs/results.md from the rows: generated blocks between markers; what stands outside them is written by people."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from quantvggt.core.files import atomic_file
from quantvggt.core.machine import CHANGED
from quantvggt.evaluate.run import Row
from quantvggt.study.plan import PARTS, Entry, cells
from quantvggt.study.store import Results
from quantvggt.study.summary import (
    AUC,
    BROKEN,
    DEPTH,
    DIRECTION,
    KEPT,
    MEMORY,
    QUALITY,
    ROTATION,
    SECONDS,
    SIZE,
    Group,
    Groups,
    Metric,
    groups_of,
)

SCHEMES = ("w8a8", "w6a6", "w4a8", "w4a4", "w3a4", "w3a3")
OPEN = ("w4a4", "w3a3")
"""The schemes whose full tables are shown; those of the others unfold."""
OVERVIEWS = (AUC[30], KEPT, ROTATION, DEPTH)
ABLATION = (AUC[30], KEPT, AUC[5], ROTATION, DIRECTION, DEPTH, SECONDS)

T = TypeVar("T")

_BLOCK = re.compile(r"<!-- study:([\w-]+) -->\n.*?<!-- /study -->", re.DOTALL)


def write_tables(results: Results, plan: Sequence[Entry], path: Path) -> None:
    """Renew every block in the file at `path`, and add the blocks that it lacks at its end."""
    blocks = {"setup": _setup(results, plan)}
    for part in PARTS:
        groups = groups_of(part, plan, results.rows)
        blocks[part] = {"float": _float, "main": _main}.get(part, _ablation)(part, groups)
    text = path.read_text(encoding="utf-8") if path.exists() else "# Results\n"
    there = {match[1] for match in _BLOCK.finditer(text)}
    for name in [name for name in blocks if name not in there]:
        text += f"\n## {PARTS.get(name, 'How it was measured')}\n\n<!-- study:{name} -->\n<!-- /study -->\n"

    def renewed(match: re.Match[str]) -> str:
        return f"<!-- study:{match[1]} -->\n{blocks[match[1]]}<!-- /study -->" if match[1] in blocks else match[0]

    with atomic_file(path) as temporary:
        temporary.write_text(_BLOCK.sub(renewed, text), encoding="utf-8")


def _setup(results: Results, plan: Sequence[Entry]) -> str:
    setup, wanted = results.setup, cells(plan)
    done = sum(key in results.rows for key in wanted)
    last = setup.first_seed + setup.scenes - 1
    return (
        f"{done} of {len(wanted)} cells are measured. Each is judged on {setup.scenes} synthetic scenes of "
        f"{setup.frames} frames (seeds {setup.first_seed} to {last}) that neither training nor calibration has seen: "
        f"cameras on all frames, depth and points on the first {setup.dense_frames} of each, one thread a cell. "
        f"{_origins(results, [results.rows[key] for key in wanted if key in results.rows])}\n"
    )


def _origins(results: Results, rows: Iterable[Row]) -> str:
    """Which machines and code the rows come from, and how many from each."""
    counts = Counter(_origin(**results.origin(row)) for row in rows)
    return " ".join(f"{count} rows: {origin}." for origin, count in counts.items())


def _origin(
    versions: Mapping[str, str] | None = None, machine: Mapping[str, Any] | None = None, commit: str | None = None
) -> str:
    if versions is None or machine is None:
        return "machine and versions not recorded"
    code = f"commit {commit[:12]}{CHANGED * commit.endswith(CHANGED)}" if commit else "commit not recorded"
    return f"{machine['processor']}, quantvggt {versions['quantvggt']} ({code}), PyTorch {versions['torch']}"


def _float(part: str, groups: Groups) -> str:
    columns = [*(metric for metric in QUALITY if metric not in (KEPT, ROTATION, DIRECTION, DEPTH)), SIZE]
    return _table("form", columns, [(form, group) for (form, _, _), group in groups.items()], bold=False)


def _main(part: str, groups: Groups) -> str:
    text = ""
    for form in _distinct(form for form, _, _ in groups):
        text += f"### {form}\n\n"
        for metric in OVERVIEWS:
            full = f" (full precision {_full(groups, form, metric)})" if metric in AUC.values() else ""
            text += f"{metric.title}{full}\n\n{_overview(groups, form, metric)}\n"
        for scheme in (*OPEN, *(scheme for scheme in SCHEMES if scheme not in OPEN)):
            rows = [(label, group) for (f, s, label), group in groups.items() if (f, s) == (form, scheme)]
            if not any(group.rows for _, group in rows):
                continue
            table = _table("method", [*QUALITY, SECONDS, MEMORY, SIZE], rows)
            if scheme in OPEN:
                text += f"#### {form}, {scheme.upper()}\n\n{table}\n"
            else:
                text += f"<details><summary>{form}, {scheme.upper()}: every number</summary>\n\n{table}\n</details>\n\n"
    return text


def _full(groups: Groups, form: str, metric: Metric) -> str:
    base = next(group.base for (f, _, _), group in groups.items() if f == form)
    return f"{metric.value(base, base):.{metric.digits}f}"


def _overview(groups: Groups, form: str, metric: Metric) -> str:
    """Methods down, schemes across, one number in each."""
    labels = _distinct(label for f, _, label in groups if f == form)
    grid = [[groups.get((form, scheme, label)) for scheme in SCHEMES] for label in labels]
    best = [_best([row[column] for row in grid], metric) for column in range(len(SCHEMES))]
    body = [[label, *map(_shown, row, [metric] * len(row), best)] for label, row in zip(labels, grid, strict=True)]
    return _lines(["method", *(scheme.upper() for scheme in SCHEMES)], body)


def _ablation(part: str, groups: Groups) -> str:
    columns = [*ABLATION, *([BROKEN] if part in ("sampling", "p", "k") else [])]
    text = ""
    for form, scheme in _distinct((form, scheme) for form, scheme, _ in groups):
        rows = [(label, group) for (f, s, label), group in groups.items() if (f, s) == (form, scheme)]
        if any(group.rows for _, group in rows):
            text += f"{form}, {scheme.upper()}\n\n{_table('', columns, rows)}\n"
    return text


def _table(head: str, columns: Sequence[Metric], rows: Sequence[tuple[str, Group]], bold: bool = True) -> str:
    """One line a group, one column a metric."""
    best = [_best([group for _, group in rows], metric) if bold else None for metric in columns]
    body = [[label, *map(_shown, [group] * len(columns), columns, best)] for label, group in rows]
    return _lines([head, *(metric.title for metric in columns)], body)


def _best(groups: Sequence[Group | None], metric: Metric) -> float | None:
    """The best mean of a column, if the metric has a better end and there is a choice."""
    means = [value for group in groups if group is not None and (value := group.mean(metric)) is not None]
    if not metric.better or len(means) < 2:
        return None
    return max(means) if metric.better == "higher" else min(means)


def _shown(group: Group | None, metric: Metric, best: float | None) -> str:
    if group is None:
        return ""
    text, value = group.show(metric), group.mean(metric)
    as_good = best is not None and value is not None and round(value, metric.digits) == round(best, metric.digits)
    return f"**{text}**" if as_good else text


def _lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _distinct(items: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(items))
