"""quantvggt reconstruct --scenes: every folder and video of a folder as a scene of its own."""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from quantvggt.checkpoint.locate import content_digest
from quantvggt.cli.common import load_model, place_of, say
from quantvggt.cli.reconstruct import reconstruct, request_of
from quantvggt.core.errors import IncompleteError, InputError
from quantvggt.core.files import atomic_folder
from quantvggt.jobs.store import Store, task_of
from quantvggt.scenes.files import VIDEO_SUFFIXES, is_clutter
from quantvggt.scenes.names import natural_order, printable

FINISHED = ".finished"
"""Where, in the output folder, it is kept which scenes are finished."""
ROOMS = ("api", "checkpoint", "cli", "core", "kernels", "models", "nn", "reconstruction", "scenes", "viewer")
"""Whose code scenes depend on."""
_NO_MATTER = ("command", "json", "model", "output", "overwrite", "ray", "run", "source", "threads", "workers")
"""Options on which a scene doesn't depend; the model counts by its content."""


class ToDo(NamedTuple):
    """A scene: where its pictures are, and the folder that it is written to."""

    source: str
    target: str


def run_scenes(args: argparse.Namespace) -> dict[str, Any]:
    """Do what isn't finished. What goes wrong with one scene is told at the end, as an IncompleteError."""
    place = place_of(args)
    request_of(args)
    if len(args.source) != 1:
        raise InputError("--scenes takes one folder, with a folder or a video for each scene in it")
    output = Path(args.output).expanduser().absolute()
    scenes = {name: ToDo(str(path), str(output / name)) for name, path in scenes_in(args.source[0]).items()}
    options = {name: value for name, value in vars(args).items() if name not in _NO_MATTER}
    store = Store(output / FINISHED, task_of([content_digest(args.model), options], rooms=ROOMS))
    results, missing = dict[str, Any](), dict[str, ToDo]()
    for name, scene in scenes.items():
        kept = store.read(f"{name}.json")
        if kept is not None and kept["pictures"] == pictures_in(scene.source) and Path(scene.target).is_dir():
            results[name] = kept["result"]
        elif Path(scene.target).exists() and not args.overwrite:
            raise InputError(
                f"{scene.target} exists already, not from this task; pass --overwrite or name a new folder"
            )
        else:
            missing[name] = scene
    say(f"{len(scenes)} scenes, {len(results)} of them finished")
    failed: dict[str, str] = {}
    if missing:
        _remove_unfinished(output, missing)
        try:
            bar = tqdm(total=len(missing), desc="scenes", unit="scene")
            with bar, place.open(partial(reconstructing, args), len(missing)) as executor:
                for name, result, error in executor.run(iter(missing.items())):
                    if error:
                        failed[name] = error.partition("\n")[0]
                        bar.write(f"failed: {printable(name)}: {failed[name]}", file=sys.stderr)
                    else:
                        results[name] = result
                        pictures = pictures_in(missing[name].source)
                        store.write(f"{name}.json", {"pictures": pictures, "result": result})
                    bar.update()
        finally:
            _remove_unfinished(output, missing)
    summary = {
        "output": str(output),
        "scenes": {name: results[name] for name in scenes if name in results},
        "failed": [{"scene": name, "error": error} for name, error in failed.items()],
    }
    if failed:
        raise IncompleteError(f"{len(failed)} of {len(scenes)} scenes failed; the others are in {output}", summary)
    say(f"{len(scenes)} scenes are in {output}")
    return summary


def scenes_in(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """The scenes right in a folder by name: folders, and videos, named without their suffix where nothing else is.

    Raises InputError if there are none.
    """
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise InputError(f"{printable(path)} is no folder; --scenes takes one, with a folder or video for each scene")
    inside = [entry for entry in path.iterdir() if not is_clutter(entry.name)]
    found = [entry for entry in inside if entry.is_dir() or entry.suffix.lower() in VIDEO_SUFFIXES]
    if not found:
        raise InputError(f"no scenes in {printable(path)}: --scenes takes a folder or a video for each")
    names = [entry.name if entry.is_dir() else entry.stem for entry in found]
    # Of a folder and a video that would share a name, the folder's own is its whole name.
    return {
        name if names.count(name) == 1 else entry.name: entry
        for entry, name in sorted(zip(found, names, strict=True), key=lambda pair: natural_order(pair[0]))
    }


def pictures_in(source: str) -> list[list[Any]]:
    """What a scene is made from, so that it is made again when that has changed: names, sizes and times of files."""
    path = Path(source)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [[str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def reconstructing(args: argparse.Namespace) -> Callable[[ToDo], dict[str, Any]]:
    """What a worker does: the model is loaded for its first scene."""
    return partial(_one_scene, args, cache(lambda: load_model(args)))


def _one_scene(args: argparse.Namespace, model: Callable[[], Any], scene: ToDo) -> dict[str, Any]:
    if not Path(scene.source).exists():
        raise InputError(f"there is no {scene.source} here; every machine needs the files under the same paths")
    with atomic_folder(scene.target) as folder:
        own = argparse.Namespace(**{**vars(args), "source": [scene.source], "output": str(folder), "overwrite": True})
        result = reconstruct(own, lambda _: model(), lambda _: None)
    files = {name: str(Path(scene.target) / Path(file).relative_to(folder)) for name, file in result["files"].items()}
    return {**result, "output": scene.target, "files": files}


def _remove_unfinished(output: Path, scenes: Mapping[str, ToDo]) -> None:
    """What a process that was killed has left behind of these scenes."""
    left = re.compile(r"\.(.+?)\.(old\.)?[a-z0-9_]{8}")
    for entry in output.glob(".*"):
        match = left.fullmatch(entry.name)
        if match and match[1] in scenes and entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
