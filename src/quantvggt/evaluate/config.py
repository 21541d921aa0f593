"""Tables of papers as files (`papers/*.toml`): under which protocol they were measured, what rows they have, and the
numbers that were published."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).with_name("papers")
_HUNDREDTHS = ("auc30", "auc15", "auc5", "auc3")
"""Papers state these from 0 to 100; rows have them from 0 to 1."""


@dataclass(frozen=True)
class TableRow:
    """label, scheme: as published; published: numbers by the keys of our rows, in our units. method, settings,
    strategy: how we make such a model (`api.quantize`, `api.select_calibration`), None: it is only quoted."""

    label: str
    scheme: str
    published: Mapping[str, float] = field(default_factory=dict)
    method: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    strategy: str | None = None


@dataclass(frozen=True)
class PaperTable:
    """title; source: who published it; protocol: its name; note: what to know when comparing; rows."""

    name: str
    title: str
    source: str
    protocol: str
    rows: tuple[TableRow, ...]
    note: str = ""


def table_names() -> list[str]:
    """Of the tables that come with the package."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def read_table(name_or_file: str) -> PaperTable:
    """A table by its name, or from a .toml file of one's own.

    Raises InputError if there is none, or what is wrong with it.
    """
    path = FOLDER / f"{name_or_file}.toml" if name_or_file in table_names() else Path(name_or_file).expanduser()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"no table {name_or_file} ({error.strerror}); name a .toml file, or one of: {', '.join(table_names())}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML file ({error})") from error
    try:
        rows = tuple(_row(**row) for row in values.pop("row", ()))
        table = PaperTable(path.stem, rows=rows, **{key: text.strip() for key, text in values.items()})
    except (TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path} is no table of a paper ({error}); docs/cli.md says what it holds") from error
    return table


def _row(published: Mapping[str, float] | None = None, **values: Any) -> TableRow:
    row = TableRow(**values, published={key: _ours(key, float(value)) for key, value in (published or {}).items()})
    if row.method is not None:
        Scheme.parse(row.scheme)
    return row


def _ours(key: str, value: float) -> float:
    return value / 100 if key in _HUNDREDTHS else value
