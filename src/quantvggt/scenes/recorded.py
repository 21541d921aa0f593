"""A calibration set as a small JSON file: where each clip comes from, so that exactly the same pixels open again.

docs/calibration.md describes the file.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from quantvggt.core.errors import InputError
from quantvggt.core.files import atomic_file
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.corruption import corrupt
from quantvggt.scenes.fingerprint import fingerprint
from quantvggt.scenes.picture import read_image
from quantvggt.scenes.preprocess import MODES, Fitted, Size, centred, check_mode, fit
from quantvggt.scenes.synthetic import make_clip
from quantvggt.scenes.video import read_frames

FORMAT = "quantvggt-calibration"
FORMAT_VERSION = 1

Source = dict[str, Any]
Pictures = dict[tuple[str, str, int], dict[int, Fitted]]  # (path of a video, mode, size) -> index -> frame


def save_set(
    path: str | os.PathLike[str], clips: Sequence[Clip], about: dict[str, Any], notes: Sequence[dict[str, Any]]
) -> None:
    """Write a calibration set. about: facts about the set; notes: facts about each clip, both JSON-able.

    Paths are written relative to the file's folder where there is such a path, with a fingerprint of each file.
    Raises InputError if a clip can't be opened again (it came from a tensor), or a file can't be read or written.
    """
    path = Path(path).expanduser()
    folder = path.absolute().parent
    entries = [
        {**note, "names": clip.names, "size": list(clip.images.shape[-2:]), "source": _written(clip.source, folder)}
        for clip, note in zip(clips, notes, strict=True)
    ]
    values = {"format": FORMAT, "format_version": FORMAT_VERSION, **about, "clips": entries}
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def open_set(path: str | os.PathLike[str]) -> list[Clip]:
    """The clips of a calibration set, with the pixels they had when it was written.

    Raises InputError if the file is no such set, or an image or video it names is missing or has changed.
    """
    path = Path(path).expanduser()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"its format is {values['format']!r}")
        if values["format_version"] != FORMAT_VERSION:
            raise ValueError(f"its format version is {values['format_version']}, known is {FORMAT_VERSION}")
        entries = [{**entry, "source": _read(entry["source"], path.parent)} for entry in values["clips"]]
        pictures = _decode_videos([entry["source"] for entry in entries])
        return [_open(entry["source"], tuple(entry["size"]), entry["names"], pictures) for entry in entries]
    except InputError as error:
        raise InputError(f"calibration set {path}: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read calibration set {path}: {error.strerror}; check the path") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"{path} is no calibration set ({type(error).__name__}: {error}); write one with quantvggt select"
        ) from error


def _written(source: Source, folder: Path) -> Source:
    """A clip's source as it goes into a file in `folder`."""
    written = dict(source)
    if source.get("kind") in ("images", "video"):
        written["frames"] = [
            {**frame, "path": _relative(frame["path"], folder), "fingerprint": fingerprint(frame["path"])}
            for frame in source["frames"]
        ]
    elif source.get("kind") != "synthetic":
        raise InputError(
            f"a clip of kind {source.get('kind')!r} can't be written to a file, for nothing says where to read it "
            "again; give the chosen set to quantize directly, or choose from files"
        )
    if "unrelated" in source:
        written["unrelated"] = [_written(other, folder) for other in source["unrelated"]]
    return written


def _read(source: Source, folder: Path) -> Source:
    """The source that was written to a file in `folder`; its files exist and are unchanged."""
    read = dict(source)
    if source["kind"] in ("images", "video"):
        read["frames"] = []
        for frame in source["frames"]:
            path = os.path.normpath(folder / frame["path"])
            if not Path(path).is_file():
                raise InputError(f"{path} is missing; put it back or choose anew")
            if fingerprint(path) != frame["fingerprint"]:
                raise InputError(f"{path} has changed since the set was chosen; put it back or choose anew")
            kept = {key: value for key, value in frame.items() if key != "fingerprint"}
            read["frames"].append({**kept, "path": path})
    if "unrelated" in source:
        read["unrelated"] = [_read(other, folder) for other in source["unrelated"]]
    return read


def _open(source: Source, size: tuple[int, int], names: list[str], pictures: Pictures) -> Clip:
    """The clip that a source describes, its frames `size` = (height, width)."""
    if "broken" in source:
        sound = {key: value for key, value in source.items() if key not in ("broken", "broken_seed", "unrelated")}
        clip = _open(sound, size, _names_of(sound), pictures)
        others = [_open(other, size, _names_of(other), pictures) for other in source.get("unrelated", ())]
        return replace(corrupt(clip, source["broken"], source["broken_seed"], others), names=list(names))
    if source["kind"] == "synthetic":
        return replace(make_clip(source["seed"], source["frames"], size), source=source)
    check_mode(source["mode"], source["size"])
    joint = MODES[source["mode"]].joint
    first = (size[1], size[0]) if joint is None else None
    fitted = [_picture(source, frame, pictures, first) for frame in source["frames"]]
    for frame, picture in zip(source["frames"], fitted, strict=True):
        height, width = picture.pixels.shape[-2:]
        brought = (height, width) if joint is None else (joint(height, size[0]), joint(width, size[1]))
        if brought != tuple(size):
            raise ValueError(f"{frame['path']} is not of a size with the clip it belongs to")
    images = torch.stack([centred(picture, *size).pixels for picture in fitted])
    return Clip(images, list(names), source)


def _names_of(source: Source) -> list[str]:
    """Names for a clip that is only a step to another one."""
    frames = source["frames"]
    return [str(index) for index in range(frames if isinstance(frames, int) else len(frames))]


def _picture(source: Source, frame: dict[str, Any], pictures: Pictures, first: Size | None) -> Fitted:
    if source["kind"] == "video":
        return pictures[frame["path"], source["mode"], source["size"]][frame["frame"]]
    return fit(read_image(Path(frame["path"])), source["mode"], source["size"], first=first)


def _decode_videos(sources: Sequence[Source]) -> Pictures:
    """Every frame of a video that some source names; each video is decoded once, however many clips come from it."""
    named = [*sources, *(other for source in sources for other in source.get("unrelated", ()))]
    wanted: dict[tuple[str, str, int], set[int]] = {}
    for source in named:
        if source["kind"] == "video":
            for frame in source["frames"]:
                wanted.setdefault((frame["path"], source["mode"], source["size"]), set()).add(frame["frame"])
    pictures: Pictures = {}
    for (path, mode, size), indices in wanted.items():
        check_mode(mode, size)
        ordered = sorted(indices)
        found = [fit(picture, mode, size) for picture in read_frames(Path(path), ordered)]
        if len(found) < len(ordered):
            raise InputError(f"frame {ordered[len(found)]} of {path} can't be decoded; choose anew")
        pictures[path, mode, size] = dict(zip(ordered, found, strict=True))
    return pictures


def _relative(path: str, folder: Path) -> str:
    absolute = Path(path).expanduser().absolute()
    try:
        return Path(os.path.relpath(absolute, folder)).as_posix()
    except ValueError:  # another drive
        return str(absolute)
