"""images/: the pictures that cameras belong to, upright, at their own size."""

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.core.limits import usable_cpus
from quantvggt.reconstruction.export.views import READABLE, View
from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.picture import read_image
from quantvggt.scenes.video import read_frames

ORIENTATION = 0x0112
REMEDY = 'put it back, or export at the network\'s size (size="network", --size network)'


def check_pictures(views: Sequence[View]) -> None:
    """Raises InputError naming the first of the user's files that is no longer there."""
    for view in views:
        if view.source is not None and not Path(view.source["path"]).is_file():
            raise InputError(f"{view.source['path']}, which the scene was made from, is gone; {REMEDY}")


def write_pictures(scene: Scene, views: Sequence[View], folder: Path) -> None:
    """Each view's picture as folder/view.file.

    A photo that is upright and that every program reads is linked (a hard link; copied where that can't be done);
    others are written upright as 8-bit RGB, and so are video frames. Without an original it is the frame, as PNG.
    Raises InputError if a picture can't be read or has another size now.
    """
    folder.mkdir()
    for view in views:
        (folder / view.file).parent.mkdir(parents=True, exist_ok=True)
    videos: dict[str, list[View]] = {}
    for view in views:
        if view.source is not None and "frame" in view.source:
            videos.setdefault(view.source["path"], []).append(view)
    with ThreadPoolExecutor(max_workers=min(8, usable_cpus())) as pool:
        done = []
        for view, pixels in zip(views, scene.images, strict=True):
            if view.source is None:
                done.append(pool.submit(Image.fromarray(pixels).save, folder / view.file))
            elif "frame" not in view.source:
                done.append(pool.submit(_photo, view, folder / view.file))
        for future in done:
            future.result()
    for path, shown in videos.items():
        _video(Path(path), shown, folder)


def _photo(view: View, path: Path) -> None:
    assert view.source is not None
    source = Path(view.source["path"])
    if _as_it_is(source, path, (view.width, view.height)):
        _link(source, path)
    else:
        _save(read_image(source), view, path)


def _as_it_is(source: Path, path: Path, size: tuple[int, int]) -> bool:
    """Is nothing to be changed: an upright photo of 8-bit RGB or grey, in a format that every program reads?"""
    if source.suffix.lower() not in READABLE or source.suffix.lower() != path.suffix.lower():
        return False
    try:
        with Image.open(source) as image:
            still = image.format in ("JPEG", "MPO") or (image.format == "PNG" and getattr(image, "n_frames", 1) == 1)
            plain = image.mode in ("RGB", "L") and "transparency" not in image.info
            return still and plain and image.size == size and image.getexif().get(ORIENTATION, 1) == 1
    except Exception:  # Pillow raises whatever broken metadata makes it stumble over; the picture itself may be fine
        return False


def _link(source: Path, path: Path) -> None:
    try:
        os.link(source.resolve(), path)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, path)


def _video(path: Path, views: Sequence[View], folder: Path) -> None:
    ordered = sorted(views, key=_index)
    found = read_frames(path, sorted({_index(view) for view in ordered}))
    current, picture = None, None
    for view in ordered:
        if _index(view) != current:
            current, picture = _index(view), next(found, None)
        if picture is None:
            raise InputError(f"frame {current} of {path} can't be decoded any more; {REMEDY}")
        _save(picture, view, folder / view.file)


def _index(view: View) -> int:
    assert view.source is not None
    return int(view.source["frame"])


def _save(picture: Image.Image, view: View, path: Path) -> None:
    if picture.size != (view.width, view.height):
        now, then = "x".join(map(str, picture.size)), f"{view.width}x{view.height}"
        assert view.source is not None
        raise InputError(f"{view.source['path']} is {now} now, it was {then} when the scene was made; {REMEDY}")
    if path.suffix.lower() == ".png":
        picture.save(path, "PNG", compress_level=4)
    else:
        picture.save(path, "JPEG", quality=95, subsampling=0)
