"""What the study measures, as data: which cells there are, which table shows them, and what comes first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

NANO, HEAVY = FORMS = ("vggt-nano", "vggt-nano-heavy")
SEEDS = (0, 1, 2)
SAMPLING_SEEDS = (0, 1, 2, 3, 4)
HARD = ("w4a4", "w3a3")
OTHERS = ("w3a4", "w4a8", "w6a6", "w8a8")

Settings = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Calibration:
    """Which clips a method learns from.

    strategy: "fresh" takes `size` new synthetic scenes; every other name is a strategy of `select_calibration`,
    which chooses `size` clips of a pool. pool: clips in it, of which the share `broken` shows no scene.
    settings: of the strategy.
    """

    size: int = 20
    strategy: str = "fresh"
    pool: int = 0
    broken: float = 0.0
    settings: Settings = ()

    def __str__(self) -> str:
        parts = [f"{self.strategy}-{self.size}"]
        if self.pool:
            parts.append(f"of-{self.pool}-broken-{self.broken}")
        return "-".join([*parts, *_spelled(self.settings)])


@dataclass(frozen=True)
class Cell:
    """One measurement; `key` says it in words and identifies its row for good.

    A seed changes both the method's random choices and the calibration clips.
    """

    form: str
    scheme: str
    method: str
    seed: int = 0
    settings: Settings = ()
    calibration: Calibration = Calibration()

    @property
    def key(self) -> str:
        method = ",".join([self.method, *_spelled(self.settings)])
        if self.method == "float":
            return f"{self.form}/float"
        if self.method in FIXED:
            return f"{self.form}/{self.scheme}/{method}"
        return f"{self.form}/{self.scheme}/{method}/{self.calibration}/seed-{self.seed}"


@dataclass(frozen=True)
class Entry:
    """A cell's place in the tables: `label` is its row in the tables of `part`; cells that differ only in their
    seed share it."""

    part: str
    label: str
    cell: Cell


@dataclass(frozen=True)
class Variant:
    """A method as a row of a table names it."""

    label: str
    method: str
    settings: Settings = ()


FIXED = ("rtn",)
"""Methods with neither calibration nor randomness: every seed gives the same model, so one run stands for all."""

BRIEFLY: Settings = (("epochs", 5),)
"""A third of the published epochs: the published code's own result on vggt-nano, at 20 clips, is of 5."""

UNTRAINED = (
    Variant("best (barq-2)", "barq-2"),
    Variant("barq-1", "barq-1"),
    Variant("RTN", "rtn"),
    Variant("SmoothQuant", "smoothquant"),
    Variant("QuaRot", "quarot"),
    Variant("GPTQ", "gptq"),
    Variant("AWQ", "awq"),
    Variant("RepQ-ViT", "repqvit"),
    Variant("DSFQ, closed form", "dsfq"),
)
EQUAL = (Variant("DopQ-ViT", "dopqvit"),)
"""Its factor cancels under per-token scales found at run time, so that it equals RepQ-ViT; measured last."""

TRAINED = (
    Variant("BRECQ", "brecq", BRIEFLY),
    Variant("QDrop", "qdrop", BRIEFLY),
    Variant("FlatQuant", "flatquant", BRIEFLY),
    Variant("DSFQ, learned", "dsfq-learned", BRIEFLY),
)
COMPONENTS = (
    Variant("Base", "rtn"),
    Variant("Rotation", "dsfq", (("smoothing", False),)),
    Variant("Scale", "dsfq", (("rotation", False),)),
    Variant("Scale, then rotation", "dsfq", (("order", "scale-rotate"),)),
    Variant("Rotation, then scale (DSFQ)", "dsfq"),
    Variant("DSFQ, learned", "dsfq-learned", BRIEFLY),
)
TWO_BITS = (*UNTRAINED[:2], Variant("QuaRot", "quarot"))
ONE_WIDTH: Settings = (("special_bits", 0), ("asymmetric", False))
"""Of all tokens, with ranges centred on zero, as the other methods have them."""

PARTS_OF_BEST = (
    Variant("best (barq-2)", "barq-2"),
    Variant("no branch (barq-1)", "barq-1"),
    Variant("branch of 32 directions", "barq-2", (("rank", 32),)),
    Variant("special tokens as narrow as all others", "barq-2", ONE_WIDTH[:1]),
    Variant("symmetric ranges", "barq-2", ONE_WIDTH[1:]),
    Variant("both of these, special tokens counted like others", "barq-2", (*ONE_WIDTH, ("special_weight", 1.0))),
    Variant("not centred", "barq-2", (("shift", False),)),
    Variant("barq-1, special tokens as narrow as all others", "barq-1", ONE_WIDTH[:1]),
    Variant("barq-1, symmetric ranges", "barq-1", ONE_WIDTH[1:]),
    Variant("barq-1, both of these", "barq-1", ONE_WIDTH),
    Variant("barq-1, not centred", "barq-1", (("shift", False),)),
)
GRANULARITIES = {
    "static, tensor": "-tensor-static",
    "static, token": "-static",
    "dynamic, tensor": "-tensor",
    "dynamic, token": "",
}
ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7)
SIZES = (5, 10, 20, 40)
STRATEGIES = ("random", "filtered", "clustered", "label", "feature", "nfds")
POOL, BROKEN = 100, 0.2
FILTERED_SHARES = (0.1, 0.2, 0.3)
CLUSTERS = (4, 8, 16)
NFDS_DEFAULTS = {"drop": 0.2, "clusters": 8}

PARTS = {
    "float": "Full precision",
    "main": "Methods on every scheme",
    "components": "What each part of DSFQ brings",
    "best": "What each part of best brings",
    "two": "Weights of two bits",
    "granularity": "Activation scales: static or dynamic, per tensor or per token",
    "alpha": "DSFQ's share of the outliers that moves into the weights",
    "sampling": "How the calibration set is chosen from a pool with broken clips",
    "size": "How many calibration clips",
    "p": "NFDS: the share that its filter drops",
    "k": "NFDS: clusters",
}


def study() -> list[Entry]:
    """Every entry, in the order in which cells should be run. A cell may stand in several parts."""
    return list(_entries())


def cells(entries: Sequence[Entry]) -> dict[str, Cell]:
    """The distinct cells by key, in order of first appearance."""
    return {entry.cell.key: entry.cell for entry in entries}


def _entries() -> Iterator[Entry]:
    for form in FORMS:
        yield Entry("float", "full precision", Cell(form, "float32", "float"))
    yield from _table("main", UNTRAINED, HARD)
    yield from _table("components", COMPONENTS, HARD)
    yield from _table("main", TRAINED, HARD[:1])
    yield from _parts_of_best()
    yield from _table("two", TWO_BITS, ("w2a8", "w2a4"))
    yield from _sampling(HARD[1:])
    yield from _table("main", TRAINED, HARD[1:])
    yield from _granularity()
    yield from _sizes()
    yield from _settings()
    yield from _table("main", UNTRAINED, OTHERS)
    yield from _table("main", TRAINED, OTHERS)
    yield from _table("main", EQUAL, (*HARD, *OTHERS))


def _table(part: str, variants: Sequence[Variant], schemes: Sequence[str]) -> Iterator[Entry]:
    """Seed by seed, so that every row of a table has its first number soon."""
    for scheme, seed, form, variant in product(schemes, SEEDS, FORMS, variants):
        yield Entry(part, variant.label, _cell(form, scheme, variant, seed))


def _cell(form: str, scheme: str, variant: Variant, seed: int) -> Cell:
    return Cell(form, scheme, variant.method, 0 if variant.method in FIXED else seed, variant.settings)


def _parts_of_best() -> Iterator[Entry]:
    for scheme, seed, variant in product(HARD, SEEDS, PARTS_OF_BEST):
        yield Entry("best", variant.label, _cell(NANO, scheme, variant, seed))


def _granularity() -> Iterator[Entry]:
    for scheme, seed, (label, suffix) in product(HARD[:1], SEEDS, GRANULARITIES.items()):
        yield Entry("granularity", label, Cell(NANO, scheme + suffix, "dsfq", seed))


def _sampling(schemes: Sequence[str]) -> Iterator[Entry]:
    """The method's own seed stays, so that the spread over seeds is that of the choice."""
    for scheme, seed, strategy in product(schemes, SAMPLING_SEEDS, STRATEGIES):
        cell = Cell(NANO, scheme, "dsfq", seed, (("seed", 0),), _chosen(strategy))
        yield Entry("sampling", strategy, cell)


def _sizes() -> Iterator[Entry]:
    for seed, size in product(SEEDS, SIZES):
        yield Entry("size", str(size), Cell(NANO, "w3a3", "dsfq", seed, calibration=Calibration(size)))


def _settings() -> Iterator[Entry]:
    for seed, alpha in product(SEEDS, ALPHAS):
        settings = () if alpha == 0.5 else (("alpha", alpha),)
        yield Entry("alpha", str(alpha), Cell(NANO, "w3a3", "dsfq", seed, settings))
    for seed, share in product(SEEDS, FILTERED_SHARES):
        yield Entry("p", str(share), _nfds(NANO, seed, "drop", share))
    for seed, count in product(SEEDS, CLUSTERS):
        yield Entry("k", str(count), _nfds(NANO, seed, "clusters", count))


def _nfds(form: str, seed: int, setting: str, value: float) -> Cell:
    """NFDS with one setting changed; the paper's value of it is the default, and so the cell of "sampling"."""
    changed = () if value == NFDS_DEFAULTS[setting] else ((setting, value),)
    return Cell(form, "w3a3", "dsfq", seed, (("seed", 0),), _chosen("nfds", *changed))


def _chosen(strategy: str, *settings: tuple[str, Any]) -> Calibration:
    return replace(Calibration(20, strategy, POOL, BROKEN), settings=settings)


def _spelled(settings: Settings) -> list[str]:
    return [f"{name}={value}" for name, value in settings]
