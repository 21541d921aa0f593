"""What the two processes do that strangers' files are opened in: one looks at uploads, one has the model."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantvggt.serve.child import Tell, Work
from quantvggt.serve.limits import Limits
from quantvggt.serve.uploads import check, is_zip, unpack

if TYPE_CHECKING:
    from quantvggt.checkpoint.load import Precision
    from quantvggt.models import Model

UPLOADS, RESULT = "files", "result.zip"
"""In a job's folder: what was sent, and what came out."""
_READ, _RUN = 0.1, 0.9  # of a job's work, roughly: when the pictures are read, and when the model is done


def upload_task(folder: Path, names: list[str], limits: Limits) -> dict[str, Any]:
    """The task of `open_uploads` for the files of these names in a job's folder."""
    return {"folder": str(folder / UPLOADS), "names": names, "limits": asdict(limits)}


def open_uploads() -> Work:
    """Looks at uploads: {"files": names, unpacked and in the order in which they count, "video": whether it is one}."""

    def work(task: dict[str, Any], tell: Tell) -> dict[str, Any]:
        folder, limits = Path(task["folder"]), Limits(**task["limits"])
        files = [folder / name for name in task["names"]]
        if len(files) == 1 and is_zip(files[0]):
            inner = Path(tempfile.mkdtemp(dir=folder))
            unpacked = unpack(files[0], inner, limits)
            files[0].unlink()
            files = [file.rename(folder / file.name) for file in unpacked]
            inner.rmdir()
        video = check(files, limits)
        return {"files": [file.name for file in files], "video": video}

    return work


def job_task(folder: Path, files: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """The task of `open_model` for these uploads; options: the fields of `serve.options.Options`, as JSON."""
    return {"folder": str(folder), "files": files, "options": options}


def open_model(name: str, device: str, dtype: "Precision | None", attention_bits: int = 16) -> Work:
    """Loads a model, and reconstructs with it. See `api.load`, and `Model.attention_bits`."""
    from quantvggt import api
    from quantvggt.core.limits import keep_threads_to_cpus

    keep_threads_to_cpus()
    model = api.load(name, dtype=dtype, device=device)
    model.attention_bits = attention_bits

    def work(task: dict[str, Any], tell: Tell) -> dict[str, Any]:
        return _reconstruct(model, name, task, tell)

    return work


def _reconstruct(model: "Model", name: str, task: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Write a job's result; what is told of it."""
    from quantvggt import api
    from quantvggt.reconstruction.export import export, make_options, points_of
    from quantvggt.scenes.open import load_clip
    from quantvggt.serve.options import FILES, PAGE, PAGE_FILE
    from quantvggt.serve.results import pack
    from quantvggt.viewer.page import write_page

    folder, files, options = Path(task["folder"]), task["files"], task["options"]
    chosen = make_options(min_confidence=options["min_confidence"], max_points=options["max_points"])
    # In the uploads' folder, so that messages and results name files as they were sent, and no folder of ours.
    with _within(folder / UPLOADS), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tell("reading", 0.0)
        source = files[0] if len(files) == 1 else files
        clip = load_clip(source, options["frames"], mode=options["mode"] or model.preprocessing, size=model.image_size)
        with _watched(model, tell):
            scene = api.reconstruct(model, clip, points=options["points"], model_name=name)
        tell("writing", _RUN)
        formats = [each for each in options["formats"] if each != PAGE]
        cloud = points_of(scene, chosen)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            out = Path(temporary)
            if formats:
                export(scene, out, formats, chosen, cloud=cloud)
            if PAGE in options["formats"]:
                title = f"{len(scene.names)} frames by {name}"
                write_page(scene, out / PAGE_FILE, title, min_confidence=options["min_confidence"])
            pack(out, folder / RESULT)
    height, width = scene.size
    return {
        "frames": len(scene.names),
        "left_out": [each for each in clip.names if each not in scene.names],
        "height": height,
        "width": width,
        "points": len(cloud),
        "warnings": list(dict.fromkeys(str(each.message) for each in told if each.category is UserWarning)),
        "files": {each: FILES[each] for each in options["formats"]},
    }


@contextmanager
def _within(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _watched(model: "Model", tell: Tell) -> Iterator[None]:
    """Tell at each transformer block how many of them have been reached."""
    names = [place.name for part in model.parts for place in part.places]
    seen = set[str]()

    def reached(name: str) -> None:
        seen.add(name)
        tell("running", _READ + (_RUN - _READ) * len(seen) / len(names))

    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: reached(name)) for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
