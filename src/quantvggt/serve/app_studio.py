"""What the app does for its visitors: looks at what they sent, reconstructs, compares, keeps results for a while."""

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from quantvggt.checkpoint.load import Precision, outline
from quantvggt.core.errors import InputError
from quantvggt.evaluate.metrics.drift import depth_change
from quantvggt.evaluate.metrics.pose import pose_errors
from quantvggt.reconstruction.scene import Scene
from quantvggt.serve.app_choice import Choice, full_precision, open_choice
from quantvggt.serve.child import Child, Unwanted
from quantvggt.serve.limits import Limits
from quantvggt.serve.options import FILES, PAGE, PAGE_FILE, Options
from quantvggt.serve.results import Packed, remove
from quantvggt.serve.uploads import TooLarge, check_count, check_room, distinct, safe_name
from quantvggt.serve.worker import RESULT, UPLOADS, job_task, open_uploads, upload_task
from quantvggt.viewer.live.difference import compare

DOWNLOADS = {"colmap": "colmap.zip", "ply": FILES["ply"], "glb": FILES["glb"]}
"""Format -> the file that a visitor gets."""
PAGES = {"scene": PAGE_FILE, "reference": f"reference_{PAGE_FILE}"}
_LOADED = 2  # models at once: one, and the one that it is compared with
_UPLOADS_BYTES = 2**31  # of memory for the process that looks at uploads

Told = Callable[[str, float], None]


@dataclass(frozen=True)
class Comparison:
    """A scene against full precision's of the same frames. seconds: that full precision took. points: median distance
    of points after the best similarity, over the mean viewing distance; rotation_deg: median over pairs of frames, None
    for a single one; depth: median relative difference after one scale. heat: per frame, the points' distances as
    colours [H, W, 3], which end at `top`, and its name."""

    seconds: float
    points: float
    rotation_deg: float | None
    depth: float
    top: float
    heat: list[tuple[NDArray[np.uint8], str]]


@dataclass(frozen=True)
class Made:
    """One reconstruction. token: nobody can guess it; pages are found by it. files: DOWNLOADS of it. facts: what the
    worker tells (`frames`, `points`, `left_out`, `warnings`, `width`, `height`). incomparable: why `comparison` is
    None, though it was asked for."""

    token: str
    folder: Path
    files: dict[str, Path]
    facts: dict[str, Any]
    seconds: float
    comparison: Comparison | None = None
    incomparable: str = ""
    at: float = field(default_factory=time.monotonic)


class Studio:
    """One job at a time, each in a process that has its model; a context manager that leaves no process and no file.

    reference: the float model that quantized ones are compared with; packaged ones are with themselves.
    """

    def __init__(
        self,
        limits: Limits,
        device: str = "cpu",
        dtype: Precision | None = None,
        reference: str | None = None,
    ) -> None:
        self.limits, self.reference = limits, reference
        self._device, self._dtype = device, dtype
        self.folder = Path(tempfile.mkdtemp(prefix="quantvggt-app-"))
        self._store = self.folder / "models"
        self._store.mkdir()
        self._looker = Child(open_uploads, _UPLOADS_BYTES)
        self._children: dict[Choice, Child] = {}
        self._made: dict[str, Made] = {}
        self._turn, self._closing = threading.Lock(), threading.Event()
        self._sweeper = threading.Thread(target=self._sweep_often, daemon=True)
        self._sweeper.start()

    def __enter__(self) -> "Studio":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for child in (self._looker, *self._children.values()):
            child.close()
        self._sweeper.join()
        remove(self.folder)

    def reconstruct(
        self,
        files: Sequence[Path],
        choice: Choice,
        frames: int | None = None,
        compared: bool = False,
        wanted: Callable[[], bool] = lambda: True,
        told: Told = lambda *_: None,
    ) -> Made:
        """Make a scene of pictures, a video or a zip of them; frames: how many, None for all pictures.

        compared: also by full precision. wanted: asked again and again; when it says no, the job is stopped. told: gets
        what is done, and the share of the job. Raises InputError for what the limits don't allow or can't be read, and
        what `Child.call` raises.
        """
        with self._turn:
            self.sweep()
            token = secrets.token_urlsafe(24)
            folder = self.folder / token
            told("looking at the files", 0.0)
            try:
                names, frames = self._take_in(files, folder, frames, wanted)
                against = full_precision(choice, self.reference) if compared else None
                steps = 1 if against is None else 2
                facts, seconds = self._run(choice, folder, names, frames, wanted, _part(told, 0, steps))
                made = Made(token, folder, self._keep(folder, "scene"), facts, seconds)
                if compared:
                    made = self._compared(made, against, names, frames, wanted, _part(told, 1, steps))
            except BaseException:
                remove(folder)
                raise
            remove(folder / UPLOADS)
            self._made[token] = made
            return made

    def page(self, token: str, which: str) -> Path | None:
        """The page of a scene, None if there is none or it isn't kept any more."""
        made = self._made.get(token)
        path = None if made is None or which not in PAGES else made.folder / PAGES[which]
        return path if path is not None and path.is_file() else None

    def sweep(self) -> None:
        """Remove what has been kept long enough."""
        for token, made in list(self._made.items()):
            if time.monotonic() - made.at > self.limits.keep_seconds:
                del self._made[token]
                remove(made.folder)

    def _sweep_often(self) -> None:
        while not self._closing.wait(min(60.0, self.limits.keep_seconds / 2)):
            self.sweep()

    def _take_in(
        self, files: Sequence[Path], folder: Path, frames: int | None, wanted: Callable[[], bool]
    ) -> tuple[list[str], int | None]:
        """Copy the files into the job's folder and look at them: their names, and how many frames to read."""
        check_count(len(files), self.limits)
        size = sum(file.stat().st_size for file in files)
        if size > self.limits.request_bytes:
            raise TooLarge(f"{size:,} bytes, {self.limits.request_bytes:,} are allowed; send less at once")
        check_room(self.folder, size, self.limits)
        (folder / UPLOADS).mkdir(parents=True)
        names = distinct([safe_name(file.name) for file in files])
        for file, name in zip(files, names, strict=True):
            shutil.copyfile(file, folder / UPLOADS / name)
        task = upload_task(folder, names, self.limits)
        seen = self._looker.call(task, self.limits.check_seconds, wanted)
        return seen["files"], Options(frames=frames).fitted(len(seen["files"]), seen["video"], self.limits)

    def _run(
        self,
        choice: Choice,
        folder: Path,
        names: list[str],
        frames: int | None,
        wanted: Callable[[], bool],
        told: Told,
    ) -> tuple[dict[str, Any], float]:
        """Have a job done by the process that has the model: what it tells, and the seconds it took."""
        told(f"preparing {choice.model}, {choice.precision}", 0.0)  # a minute, where it is quantized now
        child = self._child(choice)
        child.start()
        if not wanted():
            raise Unwanted
        mode = outline(choice.model).preprocessing
        options = Options(formats=(PAGE, "npz", *DOWNLOADS), frames=frames, mode=mode)
        start = time.monotonic()
        facts = child.call(job_task(folder, names, asdict(options)), self.limits.job_seconds, wanted, told)
        return facts, time.monotonic() - start

    def _child(self, choice: Choice) -> Child:
        """The process of a choice; those that were used least recently make room for it."""
        child = self._children.pop(choice, None)
        while child is None and len(self._children) >= _LOADED:
            self._children.pop(next(iter(self._children))).close()
        if child is None:
            setup = partial(open_choice, choice, self._store, self._device, self._dtype)
            child = Child(setup, self.limits.worker_bytes)
        self._children[choice] = child
        return child

    def _keep(self, folder: Path, which: str) -> dict[str, Path]:
        """What stays of the result that lies in a job's folder: the page, the scene, and of "scene" the downloads."""
        _unpack(folder / RESULT, PAGE_FILE, folder / PAGES[which])
        _unpack(folder / RESULT, FILES["npz"], folder / f"{which}.npz")
        kept = {name: folder / file for name, file in DOWNLOADS.items()} if which == "scene" else {}
        for name, target in kept.items():
            if name == "colmap":
                with open(target, "wb") as out:
                    out.writelines(Packed(folder / RESULT).folder(FILES[name]))
            else:
                _unpack(folder / RESULT, FILES[name], target)
        (folder / RESULT).unlink()
        return kept

    def _compared(
        self,
        made: Made,
        against: Choice | None,
        names: list[str],
        frames: int | None,
        wanted: Callable[[], bool],
        told: Told,
    ) -> Made:
        if against is None:
            why = "nothing to compare with: this is full precision, or the app was started without --reference"
            return replace(made, incomparable=why)
        _, seconds = self._run(against, made.folder, names, frames, wanted, told)
        self._keep(made.folder, "reference")
        reference, scene = (Scene.load(made.folder / f"{which}.npz") for which in ("reference", "scene"))
        try:
            return replace(made, comparison=_comparison(scene, reference, seconds))
        except InputError as error:
            return replace(made, incomparable=str(error))


def _comparison(scene: Scene, reference: Scene, seconds: float) -> Comparison:
    difference = compare(reference, scene)
    rotation = None
    if len(scene.names) > 1:
        rotation = float(np.median(pose_errors(scene.extrinsics, reference.extrinsics)[0]))
    depth = depth_change(scene.depth, reference.depth)
    heat = list(zip(difference.colours(difference.distance), scene.names, strict=True))
    return Comparison(seconds, difference.median, rotation, depth, difference.top, heat)


def _unpack(archive: Path, name: str, target: Path) -> None:
    with ZipFile(archive) as packed, packed.open(name) as source, open(target, "wb") as out:
        shutil.copyfileobj(source, out)


def _part(told: Told, step: int, steps: int) -> Told:
    """Tell one step's share as a share of all of them."""
    return lambda stage, share: told(stage, (step + share) / steps)
