"""quantvggt evaluate MODEL...: models on the same frames, beside each other and beside published numbers."""

import argparse
import json
import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from quantvggt.checkpoint.load import outline
from quantvggt.cli.common import dtype_of, place_of, say
from quantvggt.core.cache import cache_folder
from quantvggt.core.errors import IncompleteError, InputError
from quantvggt.core.files import atomic_file
from quantvggt.core.machine import environment, source_commit
from quantvggt.evaluate.comparison import Comparison, Entrant, Numbers, measure_all, refuse_overlap
from quantvggt.evaluate.config import PaperTable, TableRow, read_table
from quantvggt.evaluate.making import Learning, make
from quantvggt.evaluate.protocols.contract import Protocol
from quantvggt.evaluate.protocols.published import default_protocol, find_protocol
from quantvggt.evaluate.rows import rows_of
from quantvggt.evaluate.run import Row
from quantvggt.report.comparison import columns_of, shown, told_of
from quantvggt.report.comparison_page import comparison_page
from quantvggt.scenes.datasets import Dataset, Draw, Every, First, RandomFrames, open_dataset

ALL = "all"
_FRAMES = {First: "count", RandomFrames: "frames", Every: "limit"}
"""What a way to draw calls its number of frames."""


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """The one row, or, for several models, all of them."""
    place = place_of(args)
    table = read_table(args.config) if args.config else None
    protocol = protocol_of(args, table)
    dataset = open_dataset(protocol.dataset, args.root)
    drawn = protocol.draw.of(dataset, args.scenes, args.seed, protocol.split)
    output = None if args.output is None else Path(args.output).expanduser().absolute()
    models = [*args.model, *_made(args, table, output)]
    entrants, reference = entrants_of(args, models)
    root = None if args.root is None else str(Path(args.root).expanduser().absolute())
    comparison = Comparison(protocol, root, tuple(drawn), entrants, reference)
    kept = (cache_folder() / "evaluations") if output is None else output / "scenes"
    scenes = _measured(comparison, kept, place, args.allow_overlap)
    categories = {one.scene: dataset.category(one.scene) for one in drawn}
    rows = rows_of(comparison, scenes, categories, args.seed or 0)
    for row in rows:
        if row["calibration"]["overlap"]:
            warnings.warn(f"{row['model']}: {row['calibration']['told']}", stacklevel=1)
    own = rows if reference is None or args.reference in args.model else rows[1:]
    _tell(rows, own, args, table)
    about = _about(protocol, dataset, table)
    if output is not None:
        about |= _written(output, comparison, rows, about, table)
    return {**own[0], **about} if len(own) == 1 else {"rows": rows, **about}


def protocol_of(args: argparse.Namespace, table: PaperTable | None) -> Protocol:
    """What --protocol, --dataset, --relpose and --frames, or the table, say. Raises InputError where they disagree."""
    if (args.scenes is not None and args.scenes < 1) or (args.frames is not None and args.frames < 2):
        raise InputError("evaluation needs --scenes 1 or more and --frames 2 or more")
    named = args.protocol or (table and table.protocol)
    protocol = find_protocol(named) if named else default_protocol(args.dataset or "synthetic", args.relpose)
    if args.dataset not in (None, protocol.dataset):
        raise InputError(f"protocol {protocol.name} is of dataset {protocol.dataset}, not of {args.dataset}")
    if args.relpose is not None:
        if protocol.relpose is None:
            raise InputError(f"protocol {protocol.name} measures no relative poses; leave --relpose out")
        protocol = replace(protocol, relpose=args.relpose)
    return protocol if args.frames is None else replace(protocol, draw=_with_frames(protocol.draw, args.frames))


def entrants_of(args: argparse.Namespace, models: list[str]) -> tuple[tuple[Entrant, ...], str | None]:
    """The models, the reference first, and its label. Raises InputError if one isn't there or there is none."""
    if not models:
        raise InputError("name a MODEL to measure, or pass --study without one")
    how = dtype_of(args), args.device, args.attention, args.attention_bits
    entrants = [Entrant.of(model, *how) for model in dict.fromkeys(models)]
    reference = None
    if args.reference:
        reference = Entrant.of(args.reference, torch.float32, args.device)
        if reference.quantization is not None:
            raise InputError(f"the reference {args.reference} is quantized; name the float model")
        same = [e for e in entrants if e.way in (reference.way, (reference.digest, "None", "exact", "16"))]
        entrants = [reference, *(e for e in entrants if e not in same)]
    elif any(entrant.quantization for entrant in entrants):
        say("without --reference FLOAT_MODEL drift can't be measured; its columns are empty")
    names = [entrant.name for entrant in entrants]
    labels = [name if names.index(name) == place else f"{name} ({place + 1})" for place, name in enumerate(names)]
    entrants = [replace(entrant, label=label) for entrant, label in zip(entrants, labels, strict=True)]
    return tuple(entrants), labels[0] if reference else None


def _with_frames(draw: Draw, frames: int) -> Draw:
    return replace(draw, **{_FRAMES[type(draw)]: frames})  # type: ignore[type-var]


def _made(args: argparse.Namespace, table: PaperTable | None, output: Path | None) -> list[str]:
    """The models that --methods and --schemes ask for, quantized from the one MODEL."""
    if not args.methods:
        return []
    if len(args.model) != 1 or outline(args.model[0]).quantization is not None:
        raise InputError("--methods quantizes one float MODEL; name that one alone")
    if output is None:
        raise InputError("--methods needs --output, where the models are kept")
    methods, schemes = _words(args.methods), _words(args.schemes)
    if table is not None:
        chosen = [row for row in table.rows if row.method and (ALL in methods or row.method in methods)]
        rows = [row for row in chosen if not schemes or row.scheme in schemes]
    else:
        rows = [TableRow(method, scheme, method=method) for scheme in schemes or ["w4a4"] for method in methods]
    if not rows:
        raise InputError(f"table {args.config} has no row with these methods and schemes")
    learning = Learning(args.calibration, args.clips, args.calibration_frames, args.seed or 0)
    device = "cuda" if args.device == "auto" and torch.cuda.is_available() else args.device.replace("auto", "cpu")
    made = []
    for row in rows:
        say(f"quantizing: {row.scheme} {row.method} ({row.label})")
        made.append(str(make(args.model[0], row, learning, output / "models", device)))
    return made


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _measured(comparison: Comparison, folder: Path, place: Any, overlap: bool) -> dict[str, dict[str, Numbers]]:
    """The numbers of every label by scene. Raises InputError on an overlap, IncompleteError if scenes fail."""
    found: dict[str, dict[str, Numbers]] = {entrant.label: {} for entrant in comparison.entrants}
    failed: dict[str, str] = {}
    with tqdm(total=len(comparison.drawn), desc=comparison.protocol.name, unit="scene") as bar:
        for scene, numbers, error in measure_all(comparison, folder, place):
            bar.update()
            if error:
                failed[scene] = error
                bar.write(f"failed: {scene}: {error}", file=sys.stderr)
            for entrant in comparison.entrants if numbers else ():
                if not overlap:
                    refuse_overlap(entrant, scene, numbers[entrant.label])
                found[entrant.label][scene] = numbers[entrant.label]
    if failed:
        result = {"failed": [{"scene": scene, "error": error} for scene, error in failed.items()]}
        raise IncompleteError(
            f"{len(failed)} of {len(comparison.drawn)} scenes failed, so there is no table; the others are kept", result
        )
    return found


def _tell(rows: list[Row], own: list[Row], args: argparse.Namespace, table: PaperTable | None) -> None:
    """To people: one model's numbers one below the other, several models' side by side."""
    base = rows[0] if args.reference else None
    columns, cells = columns_of(rows), list[tuple[str, ...]]()
    if len(own) == 1 and table is None:
        cells = [(column.title, *shown(column, own[0], None if own[0] is base else base)) for column in columns]
        head = ["", "", "95 %", "from full precision"]
    else:
        cells = [
            (_name(row), row["scheme"], row["method"], *(" ".join(shown(column, row, None)[:1]) for column in columns))
            for row in rows
        ]
        for quoted in table.rows if table else ():
            values = [
                column.show(quoted.published[column.key]) if column.key in quoted.published else "-"
                for column in columns
            ]
            cells.append((f"{quoted.label}, published", quoted.scheme, quoted.method or "", *values))
        head = ["model", "scheme", "method", *(column.short for column in columns)]
    say(tabulate(cells, head, tablefmt="plain", missingval="-", disable_numparse=True))
    for row in own:
        for part, reasons in row["absent"].items():
            say(f"{_name(row)}: no {part} of {'; '.join(f'{count} scenes: {why}' for why, count in reasons.items())}")
        say(f"{_name(row)}: {row['calibration']['told']}")


def _name(row: Row) -> str:
    return re.sub(r".*/(?=[^/]+/?$)", "", row["model"]) + told_of(row)


def _about(protocol: Protocol, dataset: Dataset, table: PaperTable | None) -> dict[str, Any]:
    about: dict[str, Any] = {"dataset": protocol.dataset, "protocol": protocol.name, "relpose": protocol.relpose}
    about["missing"] = list(dataset.missing(protocol.split))
    if table is not None:
        about["table"] = {"name": table.name, "title": table.title, "source": table.source, "note": table.note}
        about["published"] = [
            {"label": row.label, "scheme": row.scheme, "method": row.method, **row.published} for row in table.rows
        ]
    return about


def _written(
    output: Path, comparison: Comparison, rows: list[Row], about: dict[str, Any], table: PaperTable | None
) -> dict[str, str]:
    """results.json and report.html, and where they are."""
    found = {
        "rows": rows,
        **about,
        "about": comparison.protocol.about,
        "drawn": {scene: list(frames) for scene, frames in comparison.drawn},
        **environment(),
        "commit": source_commit(),
    }
    files = {"results": output / "results.json", "report": output / "report.html"}
    page = comparison_page(rows, comparison.protocol, table, found, comparison.reference is not None)
    for name, text in (("results", json.dumps(found, indent=1) + "\n"), ("report", page)):
        with atomic_file(files[name]) as temporary:
            temporary.write_text(text, encoding="utf-8")
    say(f"{files['report']}: open it in a browser; {files['results']}: the same for programs")
    return {"output": str(output), **{name: str(path) for name, path in files.items()}}
