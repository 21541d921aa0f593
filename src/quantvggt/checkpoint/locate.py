"""Where a checkpoint lies, and which files it is."""

import hashlib
import os
from pathlib import Path

from quantvggt.checkpoint import hub
from quantvggt.checkpoint.config import CONFIG_NAME
from quantvggt.checkpoint.layouts import is_index, shard_names
from quantvggt.checkpoint.packaged import NAMES, NANO, OVERLAY_NAME, packaged_weights
from quantvggt.core.errors import InputError


def locate(name_or_path: str | os.PathLike[str]) -> Path:
    """The weights file that a name stands for, fetched from the hub if need be; InputError if none."""
    name = os.fspath(name_or_path)
    if name in NAMES:
        return packaged_weights(name)
    path = Path(name).expanduser()
    if path.is_dir():
        for weights in hub.WEIGHTS_NAMES:
            if (path / weights).is_file():
                return path / weights
        raise InputError(f"{path} is not a checkpoint: it holds neither {' nor '.join(hub.WEIGHTS_NAMES)}")
    if path.is_file():
        return path
    if hub.is_repo_id(name):
        return hub.fetch(name)
    raise InputError(
        f"no checkpoint at {path}: give a file, a folder, a hub id such as facebook/VGGT-1B, or {' or '.join(NAMES)}"
    )


def checkpoint_files(weights: Path) -> list[Path]:
    """What a checkpoint is, given what `locate` says: its weights, and the config.json beside them if there is one."""
    shards = [weights.parent / name for name in shard_names(weights)] if is_index(weights) else []
    config = weights.parent / CONFIG_NAME
    return [weights, *shards, config] if config.is_file() else [weights, *shards]


def stored_bytes(name_or_path: str | os.PathLike[str]) -> int:
    """Bytes of a checkpoint on disk, weights and config.json; `name_or_path` as for `locate`.

    An overlay counts as its base, because merged it is a model of the base's size. InputError if there is none.
    """
    files = checkpoint_files(locate(name_or_path))
    return sum((packaged_weights(NANO) if file.name == OVERLAY_NAME else file).stat().st_size for file in files)


def content_digest(name_or_path: str | os.PathLike[str]) -> str:
    """A text that is the same for checkpoints of the same files, wherever they lie; InputError if there is none."""
    digest = hashlib.sha256()
    for file in checkpoint_files(locate(name_or_path)):
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        with open(file, "rb") as content:
            while block := content.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def lies_in(name_or_path: str | os.PathLike[str], folder: Path) -> bool:
    """Whether a file of this checkpoint lies in `folder`, also through links; not asked of what the hub has to send.

    Raises InputError if there is a folder of that name that is no checkpoint.
    """
    if name_or_path not in NAMES and not Path(name_or_path).expanduser().exists():
        return False
    files = checkpoint_files(locate(name_or_path))
    places = {place for file in files for place in (file.parent.resolve() / file.name, file.resolve())}
    return any(folder.resolve() in place.parents for place in places)
