"""What the house is like, in figures read from its sources: `python tools/structure.py [CHECKOUT]`.

Prints the rooms (files and lines), the arrows between them (room -> room, number of imports), imports against the order
of docs/design.md, the longest functions, the widest signatures, and how many files outside models/ name VGGT. Without
an argument the checkout that this script lies in; with one any other, older ones too, so that two can be compared.
Exit code 1 if an import runs against the order.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = "quantvggt"
SOURCES = (".py", ".cpp", ".h")
BESIDE = {("report", "viewer"), ("evaluate", "viewer")}
"""Beyond the order: a report embeds the viewer's figure of a scene (and lay in evaluate/ once)."""
SHOWN = 10
Arrow = tuple[str, str]


class Function(NamedTuple):
    """lines: from its def to its end; width: parameters, without self and cls."""

    name: str
    lines: int
    width: int


def levels(design: Path) -> list[set[str]]:
    """The order of docs/design.md: each room may import the rooms of the later sets, and itself."""
    order = re.search(r"^```\n(cli ->.*?)^```", design.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    if order is None:
        raise ValueError(f"{design} has no block that starts with 'cli ->'")
    return [set(re.findall(r"\w+", level)) for level in order[1].split("->")]


def room_of(module: str, package: Path) -> str:
    """ "quantvggt.nn.block" -> "nn"; what is in no room belongs to the package's own face."""
    room = module.split(".")[1] if "." in module else PACKAGE
    return room if (package / room).is_dir() or (package / f"{room}.py").is_file() else PACKAGE


def arrows(package: Path) -> Counter[Arrow]:
    """How often each room imports each other one; a name or a module that is imported is one import."""
    found: Counter[Arrow] = Counter()
    for module, tree in _modules(package):
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                if node.level:
                    raise ValueError(f"{module} uses a relative import")
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            pairs = [
                (room_of(module, package), room_of(name, package)) for name in names if name.split(".")[0] == PACKAGE
            ]
            found.update(pair for pair in pairs if pair[0] != pair[1])
    return found


def against(order: list[set[str]], found: Counter[Arrow]) -> list[Arrow]:
    """The arrows that the order forbids, or has no place for. The package's face stands outside it."""
    level = {room: index for index, rooms in enumerate(order) for room in rooms}
    inner = [pair for pair in found if PACKAGE not in pair and pair not in BESIDE]
    return sorted(pair for pair in inner if not level.get(pair[0], len(order)) < level.get(pair[1], -1))


def below(found: Counter[Arrow], *rooms: str) -> set[str]:
    """These rooms and all that they import, however far down. The package's face isn't followed."""
    reached, waiting = set(rooms), list(rooms)
    while waiting:
        room = waiting.pop()
        new = {other for one, other in found if one == room and other != PACKAGE} - reached
        reached |= new
        waiting += new
    return reached


def functions(package: Path) -> list[Function]:
    """Every function and method of the package."""
    return [
        Function(f"{module.removeprefix(PACKAGE + '.')}.{name}", (node.end_lineno or 0) - node.lineno + 1, _width(node))
        for module, tree in _modules(package)
        for name, node in _defined(tree, "")
    ]


def sizes(package: Path) -> dict[str, tuple[int, int]]:
    """{room: files and lines} of Python and native sources."""
    found: dict[str, tuple[int, int]] = {}
    for file in sorted(file for file in package.rglob("*") if file.suffix in SOURCES):
        parts = file.relative_to(package).with_suffix("").parts
        room = PACKAGE if parts == ("__init__",) else parts[0]
        files, lines = found.get(room, (0, 0))
        found[room] = files + 1, lines + file.read_bytes().count(b"\n")
    return found


def naming_vggt(package: Path) -> list[str]:
    """Modules outside models/ with an identifier that starts with VGGT."""
    return [
        module
        for module, tree in _modules(package)
        if room_of(module, package) != "models"
        and any(name.startswith("VGGT") for node in ast.walk(tree) for name in _identifiers(node))
    ]


def _modules(package: Path) -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(package.rglob("*.py")):
        parts = [part for part in file.relative_to(package).with_suffix("").parts if part != "__init__"]
        yield ".".join([PACKAGE, *parts]), ast.parse(file.read_text(encoding="utf-8"))


def _defined(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        name = prefix
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}.{child.name}".strip(".")
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, child
        yield from _defined(child, name)


def _width(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    args = node.args
    named = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg) if arg]
    return len(named) - (named[:1] in (["self"], ["cls"]))


def _identifiers(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    return node.name.split(".")[-1:] if isinstance(node, ast.alias) else []


def main(checkout: Path) -> int:
    """Print it all; returns the exit code."""
    package = checkout / "src" / PACKAGE
    size, found = sizes(package), arrows(package)
    print(f"{'room':16} {'files':>6} {'lines':>7}")
    for room, (files, lines) in sorted(size.items(), key=lambda item: -item[1][1]):
        print(f"{room:16} {files:6} {lines:7}")
    print(f"{'all':16} {sum(files for files, _ in size.values()):6} {sum(lines for _, lines in size.values()):7}")
    order = levels(checkout / "docs" / "design.md")
    print("\norder: " + " -> ".join(", ".join(sorted(level)) for level in order))
    print(f"arrows: {len(found)}, of {sum(found.values())} imports")
    for room in sorted({one for one, _ in found}):
        outgoing = sorted((other, count) for (one, other), count in found.items() if one == room)
        print(f"  {room} -> " + ", ".join(f"{other} {count}" for other, count in outgoing))
    wrong = against(order, found)
    print("against the order: " + (", ".join(f"{one} -> {other}" for one, other in wrong) or "none"))
    every = functions(package)
    print(f"\nlongest of {len(every)} functions, in lines")
    for each in sorted(every, key=lambda each: (-each.lines, each.name))[:SHOWN]:
        print(f"  {each.lines:4} {each.name}")
    print("widest signatures, in parameters")
    for each in sorted(every, key=lambda each: (-each.width, each.name))[:SHOWN]:
        print(f"  {each.width:4} {each.name}")
    print(f"\nfiles outside models/ that name VGGT: {len(naming_vggt(package))}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]))
