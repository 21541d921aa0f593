"""The one command behind docs/results.md: measure what is missing, keep every finished row, write the tables."""

import os
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from quantvggt.calibrate.methods import make_method
from quantvggt.core.errors import InputError
from quantvggt.core.limits import usable_cpus
from quantvggt.core.scheme import Scheme
from quantvggt.jobs.executor import Place
from quantvggt.study.inputs import Inputs, fingerprint
from quantvggt.study.measure import measuring
from quantvggt.study.plan import Cell, Entry, cells, study
from quantvggt.study.store import STANDARD, Results, Setup
from quantvggt.study.tables import write_tables

CACHE = Path("runs/study")


@dataclass(frozen=True)
class Filters:
    """Which entries of the plan are meant; an empty filter means all. A scheme's filter covers its granularities."""

    parts: Collection[str] = ()
    methods: Collection[str] = ()
    schemes: Collection[str] = ()
    forms: Collection[str] = ()

    def __call__(self, entry: Entry) -> bool:
        cell = entry.cell
        scheme = cell.scheme.partition("-")[0]
        asked = ((entry.part, self.parts), (cell.method, self.methods), (scheme, self.schemes), (cell.form, self.forms))
        return all(not wanted or value in wanted for value, wanted in asked)


def run_study(
    path: str | os.PathLike[str] = "docs/results.json",
    *,
    minutes: float | None = None,
    workers: int | None = None,
    ray: str | None = None,
    filters: Filters = Filters(),
    redo: bool = False,
    dry_run: bool = False,
    tables_only: bool = False,
    setup: Setup = STANDARD,
    plan: Sequence[Entry] | None = None,
    folder: Path = CACHE,
) -> dict[str, Any]:
    """Measure the cells of the plan that `path` has no row for yet, then write the tables beside it (.md).

    minutes: no cell is started after so long. workers: processes, default one a core, 0: none but this one; with `ray`,
    the address of a cluster (`jobs.cluster`), workers there, default as many as have room.
    redo: forget the finished rows that the filters select first. dry_run: only say what is missing.
    tables_only: measure nothing. folder: for what is computed once.
    The file is written after every cell, so an interruption loses only what was running; the next call goes on.
    A row of other weights than today's (the form was trained anew) counts as missing. Cells whose form, method,
    setting or scheme doesn't exist (yet) are left out, with a line that says so.

    Returns "results" (the path), "rows", "missing" (of the selected) and "failed" (keys and errors).
    Raises InputError if the file is something else, a filter matches nothing, or `workers` is negative.
    """
    if workers is None:
        workers = usable_cpus() if ray is None else 0
    place = Place(workers, ray, threads=1)  # small models leave a second one waiting; its sums would be other sums
    path = Path(path)
    results = Results.load(path, setup)
    plan = study() if plan is None else plan
    selected = cells([entry for entry in plan if filters(entry)])
    if not selected:
        raise InputError("no cell of the study passes these filters; --dry-run without filters lists them all")
    prints = _fingerprints(selected)
    stale = [
        key
        for key, row in results.rows.items()
        if (redo and key in selected) or prints.get(row["model"], row["model_sha256"]) != row["model_sha256"]
    ]
    for key in [] if dry_run or tables_only else stale:
        del results.rows[key]
    missing = [cell for key, cell in selected.items() if key not in results.rows or key in stale]
    possible = list(_possible(missing, prints))
    _say(f"{len(selected)} cells, {len(selected) - len(missing)} of them done, {len(possible)} to run")
    failed: dict[str, str] = {}
    if dry_run:
        for cell in possible:
            _say(f"  {cell.key}")
    else:
        todo = [] if tables_only else possible
        failed = _run(todo, results, path, minutes, place, Inputs(setup, folder.absolute()))
        write_tables(results, plan, path.with_suffix(".md"))
    left = sum(key not in results.rows for key in selected)
    for key, error in failed.items():
        _say(f"failed: {key}: {error}")
    return {
        "results": str(path),
        "rows": len(results.rows),
        "missing": left,
        "failed": [{"key": key, "error": error.partition("\n")[0]} for key, error in failed.items()],
    }


def _run(
    todo: Sequence[Cell], results: Results, path: Path, minutes: float | None, place: Place, inputs: Inputs
) -> dict[str, str]:
    """Fill `results`; returns the errors by key. Ctrl-C ends it early, like the clock."""
    failed: dict[str, str] = {}
    if not todo:
        return failed
    try:
        for form in {cell.form: None for cell in todo}:
            inputs.reference(form)  # once, here, rather than in every process at the same time
        stop = None if minutes is None else time.monotonic() + 60 * minutes
        bar = tqdm(total=len(todo), desc="study", unit="cell", smoothing=0.05)
        work = partial(measuring, inputs.setup, inputs.folder)
        with bar, place.open(work, len(todo)) as executor:
            for outcome in executor.run(_until(stop, todo)):
                key = outcome.name
                if outcome.error:
                    failed[key] = outcome.error
                    bar.write(f"failed: {key}", file=sys.stderr)
                else:
                    results.rows[key] = outcome.result
                    results.save(path)
                bar.set_postfix_str(key, refresh=False)
                bar.update()
    except KeyboardInterrupt:
        _say(f"interrupted; {path} holds every finished row, and the same command goes on")
    return failed


def _until(stop: float | None, todo: Sequence[Cell]) -> Iterator[tuple[str, Cell]]:
    """The cells by key, up to the moment `stop` of the monotonic clock."""
    for cell in todo:
        if stop is not None and time.monotonic() > stop:
            return
        yield cell.key, cell


def _fingerprints(selected: dict[str, Cell]) -> dict[str, str]:
    """Of every form that there is."""
    prints = {}
    for form in {cell.form: None for cell in selected.values()}:
        try:
            prints[form] = fingerprint(form)
        except InputError as error:
            _say(f"left out for now: {form}: {error}")
    return prints


def _possible(missing: Sequence[Cell], prints: dict[str, str]) -> Iterator[Cell]:
    """Those that can be run; says once of each reason why others can't."""
    told: set[str] = set()
    for cell in missing:
        if cell.form not in prints:
            continue
        try:
            if cell.method != "float":
                make_method(cell.method, dict(cell.settings), cell.seed)
                Scheme.parse(cell.scheme)
            yield cell
        except InputError as error:
            if str(error) not in told:
                _say(f"left out for now: {cell.method} {cell.scheme}: {error}")
            told.add(str(error))


def _say(text: str) -> None:
    print(text, file=sys.stderr)
