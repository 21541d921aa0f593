"""scene.npz: everything in a Scene, in one compressed file without pickles."""

import json
from pathlib import Path
from typing import BinaryIO

import numpy as np

from quantvggt.core.files import atomic_file
from quantvggt.reconstruction.scene import Scene

VERSION = 1
ARRAYS = ("images", "extrinsics", "intrinsics", "depth", "depth_conf", "points", "points_conf")


def write_npz(scene: Scene, path: Path) -> None:
    """The arrays under their names in Scene; names and provenance as JSON text under "about"."""
    with atomic_file(path) as temporary, open(temporary, "wb") as stream:
        dump_npz(scene, stream)


def dump_npz(scene: Scene, stream: BinaryIO) -> None:
    """The same, to an open file."""
    about = json.dumps({"version": VERSION, "names": scene.names, "provenance": scene.provenance})
    arrays = {name: getattr(scene, name) for name in ARRAYS}
    np.savez_compressed(stream, about=np.array(about), **arrays)


def read_npz(path: Path) -> Scene:
    """What a damaged or foreign file raises (ValueError, KeyError, BadZipFile, ...) is left to the caller."""
    with np.load(path, allow_pickle=False) as stored:
        about = json.loads(str(stored["about"]))
        if about["version"] != VERSION:
            raise ValueError(f"its format version is {about['version']}, this release reads {VERSION}")
        arrays = {name: stored[name] for name in ARRAYS}
    return Scene(names=about["names"], provenance=about["provenance"], **arrays)
