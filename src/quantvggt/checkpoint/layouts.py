"""Other ways in which the same weights lie: in several files with an index, as Hugging Face's tools write large models,
and under a prefix, as training wrappers leave it."""

import re
from collections.abc import Collection, Iterator, Mapping
from itertools import accumulate, takewhile
from pathlib import Path

from torch import Tensor

from quantvggt.checkpoint.weights import SAFETENSORS_SUFFIX, TORCH_SUFFIXES, WeightsFile, open_weights
from quantvggt.core.errors import InputError
from quantvggt.core.files import read_json

INDEX_SUFFIX = ".index.json"
MAX_INDEX_BYTES = 16 * 2**20
MAX_SHARDS = 1000
_LEVELS = 4  # of a prefix
_SHOWN = 3
_PLAIN_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
_REMEDY = "the files do not belong together or are damaged, fetch them again"


class ShardedFile(WeightsFile):
    """Several files that read as one. `path` is their index."""

    def __init__(self, path: Path) -> None:
        """Raises InputError if the index or a shard is damaged, a shard is missing, or they don't fit together."""
        self.path = path
        names = shard_names(path)
        if missing := [shard for shard in names if not (path.parent / shard).is_file()]:
            shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
            raise InputError(f"{path}: {len(missing)} of its {len(names)} files are missing ({shown}); fetch them")
        self._shards = [open_weights(path.parent / shard) for shard in names]
        self.infos = {}
        for shard, promised in zip(self._shards, names.values(), strict=True):
            if odd := sorted(promised ^ shard.infos.keys()):
                raise InputError(
                    f"{shard.path} and {path.name} disagree about {len(odd)} tensors ({odd[0]}); {_REMEDY}"
                )
            self.infos |= shard.infos

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for shard in self._shards:
            yield from shard.tensors()


class Renamed(WeightsFile):
    """Another file under other names: {its name: the new one}; it holds nothing else."""

    def __init__(self, weights: WeightsFile, names: Mapping[str, str]) -> None:
        self.path, self._weights, self._names = weights.path, weights, names
        self.infos = {names[name]: info for name, info in weights.infos.items() if name in names}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._weights.tensors():
            if name in self._names:
                yield self._names[name], tensor


def is_index(path: Path) -> bool:
    """Whether a file of this name lists the shards of a checkpoint."""
    return path.name.endswith(INDEX_SUFFIX)


def shard_names(index: Path) -> Mapping[str, set[str]]:
    """The files that an index names, in its order, and the names of the tensors in each.

    Raises InputError if it is no index, is larger than any that was ever needed, or names anything but weights files
    beside it.
    """
    content = read_json(index, MAX_INDEX_BYTES)
    entries = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not entries:
        raise InputError(f"{index} is no index of a checkpoint: it has no weight_map from tensors to files")
    shards: dict[str, set[str]] = {}
    for tensor, file in entries.items():
        suffixes = (SAFETENSORS_SUFFIX, *TORCH_SUFFIXES)
        if not isinstance(file, str) or not _PLAIN_NAME.fullmatch(file) or not file.endswith(suffixes):
            raise InputError(f"{index}: {tensor!r} lies in {file!r}, which is not the name of a weights file beside it")
        shards.setdefault(file, set()).add(tensor)
    if len(shards) > MAX_SHARDS:
        raise InputError(f"{index} names {len(shards)} files; no checkpoint has more than {MAX_SHARDS}")
    return shards


def shared_prefixes(names: Collection[str]) -> list[str]:
    """Beginnings that all `names` share, each up to a dot, shortest first: "", "module.", "module.model."."""
    first, last = (name.split(".", _LEVELS)[:-1] for name in (min(names, default=""), max(names, default="")))
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))  # so all between do
    return list(accumulate((f"{part}." for part, _ in shared), initial=""))


def unprefixed(weights: WeightsFile, expected: Collection[str]) -> WeightsFile:
    """`weights`, without a prefix that all its names share if more of them are expected like that."""

    def fitting(prefix: str) -> int:
        return sum(name.removeprefix(prefix) in expected for name in weights.infos)

    prefix = max(shared_prefixes(weights.infos), key=fitting)  # the shortest of equals
    return Renamed(weights, {name: name.removeprefix(prefix) for name in weights.infos}) if prefix else weights


def without_aliases(weights: WeightsFile, aliases: Mapping[str, str]) -> WeightsFile:
    """`weights`, each tensor once: under its own name, or else under the first of its aliases {alias: own name}."""
    names = {aliases.get(name, name): name for name in sorted(weights.infos, key=lambda name: name in aliases)[::-1]}
    return Renamed(weights, {old: new for new, old in names.items()}) if aliases else weights
