"""The published code's parameter files: packed here, as that code writes them for whoever reads them."""

import shutil
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path

PACKED = Path(__file__).parent / "golden" / "published"
_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # gone at the end of the run


@lru_cache
def published(scheme: str) -> Path:
    """The folder of "w4a4" or "w8a8"; PyTorch maps its files, so nothing in them may be compressed."""
    _FOLDERS.append(tempfile.TemporaryDirectory())
    folder = Path(_FOLDERS[-1].name) / scheme
    shutil.copytree(PACKED / scheme, folder)
    for path in folder.glob("*.pth"):
        with zipfile.ZipFile(PACKED / scheme / path.name) as packed, zipfile.ZipFile(path, "w") as plain:
            for entry in packed.infolist():
                plain.writestr(entry.filename, packed.read(entry))
    return folder
